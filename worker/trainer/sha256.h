// SHA-256, lower-case hex.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace ham::trainer {

// One digest: any number of Update, then one Hex. One thread at a time.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void Update(const void* data, size_t bytes);
  std::string Hex();

 private:
  struct Context;
  const std::unique_ptr<Context> context_;
};

std::string Sha256Hex(const std::string& bytes);

}  // namespace ham::trainer

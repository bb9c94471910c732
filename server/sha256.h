// SHA-256 as lower-case hex.
#pragma once

#include <memory>
#include <string>
#include <string_view>

struct evp_md_ctx_st;

namespace ham::server {

// Any thread.
std::string Sha256Hex(std::string_view data);
bool IsSha256Hex(std::string_view text);

// Of data that comes in pieces. One thread.
class Sha256Hasher {
 public:
  Sha256Hasher();
  ~Sha256Hasher();
  void Update(std::string_view data);
  std::string FinishHex();  // once

 private:
  evp_md_ctx_st* const context_;
};

}  // namespace ham::server

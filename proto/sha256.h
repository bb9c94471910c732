// SHA-256 as lower-case hex: the digest of artifacts, data sets and requests.
#pragma once

#include <string>
#include <string_view>

struct evp_md_ctx_st;

namespace ham {

// One digest: any number of Update, then one Hex. One thread at a time.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void Update(std::string_view bytes);
  std::string Hex();

 private:
  evp_md_ctx_st* const context_;
};

// Any thread.
std::string Sha256Hex(std::string_view bytes);
bool IsSha256Hex(std::string_view text);

}  // namespace ham

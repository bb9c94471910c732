#include "proto/sha256.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/escaping.h"

namespace ham {
namespace {

constexpr size_t kDigestBytes = 32;

// Fails only without memory, or where a policy forbids SHA-256: nothing here can go on then.
void Require(int ok) {
  if (ok != 1) std::abort();
}

}  // namespace

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  Require(context_ != nullptr);
  Require(EVP_DigestInit_ex(context_, EVP_sha256(), nullptr));
}

Sha256::~Sha256() { EVP_MD_CTX_free(context_); }

void Sha256::Update(std::string_view bytes) { Require(EVP_DigestUpdate(context_, bytes.data(), bytes.size())); }

std::string Sha256::Hex() {
  std::string digest(kDigestBytes, '\0');
  Require(EVP_DigestFinal_ex(context_, reinterpret_cast<unsigned char*>(digest.data()), nullptr));
  return absl::BytesToHexString(digest);
}

std::string Sha256Hex(std::string_view bytes) {
  Sha256 digest;
  digest.Update(bytes);
  return digest.Hex();
}

bool IsSha256Hex(std::string_view text) {
  const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  return text.size() == 2 * kDigestBytes && std::all_of(text.begin(), text.end(), is_digit);
}

}  // namespace ham

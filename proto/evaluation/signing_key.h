// Ed25519 keys that sign records of evaluations. Immutable; any thread.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

struct evp_pkey_st;

namespace ham {

class SigningKey {
 public:
  // The private key in the PEM file `path`; a new one, written there with mode 0600, if there is no such file. One
  // program at a time. FailedPrecondition where others can read the file; DataLoss where it holds no such key.
  static absl::StatusOr<SigningKey> LoadOrCreate(const std::string& path);

  const std::string& public_key() const { return public_key_; }  // 32 bytes
  std::string Sign(const std::string& text) const;               // 64 bytes

 private:
  explicit SigningKey(evp_pkey_st* key);

  std::shared_ptr<evp_pkey_st> key_;
  std::string public_key_;
};

// Whether `signature` is that of `text` by `public_key`, both as bytes.
bool IsSignature(const std::string& public_key, const std::string& text, const std::string& signature);

}  // namespace ham

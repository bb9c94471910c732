#include "proto/evaluation/signing_key.h"

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "proto/atomic_file.h"

namespace ham {
namespace {

constexpr size_t kPublicKeyBytes = 32;
constexpr size_t kSignatureBytes = 64;

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;
using Digest = std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)>;

// Fails only without memory, or where a policy forbids Ed25519: nothing here can go on then.
void RequireOpenSsl(bool ok) {
  if (!ok) std::abort();
}

const unsigned char* BytesOf(const std::string& text) { return reinterpret_cast<const unsigned char*>(text.data()); }
unsigned char* BytesOf(std::string* text) { return reinterpret_cast<unsigned char*>(text->data()); }

absl::StatusOr<evp_pkey_st*> NewKeyIn(const std::string& path) {
  evp_pkey_st* const key = EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519");
  RequireOpenSsl(key != nullptr);
  const Bio out(BIO_new(BIO_s_mem()), &BIO_free);
  RequireOpenSsl(out != nullptr &&
                 PEM_write_bio_PrivateKey(out.get(), key, nullptr, nullptr, 0, nullptr, nullptr) == 1);
  char* text = nullptr;
  const long size = BIO_get_mem_data(out.get(), &text);
  const absl::Status written =
      WriteFileAtomically(path, std::string_view(text, static_cast<size_t>(size)), S_IRUSR | S_IWUSR);
  if (written.ok()) return key;
  EVP_PKEY_free(key);
  return written;
}

absl::StatusOr<evp_pkey_st*> ReadKey(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) return FileError("read", path, errno);
  const std::string pem = std::move(text).str();
  const Bio in(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), &BIO_free);
  RequireOpenSsl(in != nullptr);
  // Without this an encrypted file would ask the terminal.
  const auto no_password = [](char*, int, int, void*) { return -1; };
  evp_pkey_st* const key = PEM_read_bio_PrivateKey(in.get(), nullptr, no_password, nullptr);
  if (key != nullptr && EVP_PKEY_is_a(key, "ED25519") == 1) return key;
  EVP_PKEY_free(key);
  return absl::DataLossError(absl::StrCat(path,
                                          " holds no Ed25519 key in PEM: restore it from a backup, or remove it for a "
                                          "new one (records are then signed with that)"));
}

}  // namespace

SigningKey::SigningKey(evp_pkey_st* key) : key_(key, &EVP_PKEY_free), public_key_(kPublicKeyBytes, '\0') {
  size_t size = kPublicKeyBytes;
  RequireOpenSsl(EVP_PKEY_get_raw_public_key(key, BytesOf(&public_key_), &size) == 1);
}

absl::StatusOr<SigningKey> SigningKey::LoadOrCreate(const std::string& path) {
  struct stat info;
  const bool exists = ::stat(path.c_str(), &info) == 0;
  if (!exists && errno != ENOENT) return FileError("read", path, errno);
  if (exists && (info.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    return absl::FailedPreconditionError(absl::StrCat(path, " can be read by others: run `chmod 600 ", path,
                                                      "`, or remove it for a new key if its "
                                                      "secret may be known"));
  }
  const absl::StatusOr<evp_pkey_st*> key = exists ? ReadKey(path) : NewKeyIn(path);
  if (!key.ok()) return key.status();
  return SigningKey(*key);
}

std::string SigningKey::Sign(const std::string& text) const {
  const Digest context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  std::string signature(kSignatureBytes, '\0');
  size_t size = signature.size();
  RequireOpenSsl(context != nullptr && EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key_.get()) == 1 &&
                 EVP_DigestSign(context.get(), BytesOf(&signature), &size, BytesOf(text), text.size()) == 1);
  return signature;
}

bool IsSignature(const std::string& public_key, const std::string& text, const std::string& signature) {
  if (public_key.size() != kPublicKeyBytes || signature.size() != kSignatureBytes) return false;
  const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(
      EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, BytesOf(public_key), public_key.size()), &EVP_PKEY_free);
  const Digest context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  RequireOpenSsl(context != nullptr);
  return key != nullptr && EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
         EVP_DigestVerify(context.get(), BytesOf(signature), signature.size(), BytesOf(text), text.size()) == 1;
}

}  // namespace ham

#include "server/certificates.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "proto/pem.h"

namespace ham::server {
namespace {

using Key = std::unique_ptr<EVP_PKEY, OpenSslFree<EVP_PKEY, EVP_PKEY_free>>;

absl::Status Failed(const char* what) { return absl::InternalError(absl::StrCat("OpenSSL could not ", what)); }

Key ParseKey(const std::string& pem) {
  const Bio bio = Reader(pem);
  return Key(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
}

bool AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str());
  if (extension == nullptr) return false;
  const bool added = X509_add_ext(certificate, extension, -1) == 1;
  X509_EXTENSION_free(extension);
  return added;
}

bool IsAddress(const std::string& name) {
  ASN1_OCTET_STRING* address = a2i_IPADDRESS(name.c_str());
  if (address == nullptr) return false;
  ASN1_OCTET_STRING_free(address);
  return true;
}

// An unsigned certificate with key, serial number, times and subject.
absl::Status Prepare(X509* certificate, EVP_PKEY* key, const char* common_name, absl::Time now, absl::Duration life) {
  unsigned char serial[16];
  if (RAND_bytes(serial, sizeof(serial)) != 1) return Failed("make random numbers");
  serial[0] &= 0x7f;
  BIGNUM* number = BN_bin2bn(serial, sizeof(serial), nullptr);
  BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate));
  BN_free(number);
  X509_set_version(certificate, 2);
  // An hour earlier, for clients whose clock is a little late.
  ASN1_TIME_set(X509_getm_notBefore(certificate), absl::ToTimeT(now - absl::Hours(1)));
  ASN1_TIME_set(X509_getm_notAfter(certificate), absl::ToTimeT(now + life));
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(common_name), -1, -1, 0);
  return X509_set_pubkey(certificate, key) == 1 ? absl::OkStatus() : Failed("set a public key");
}

absl::StatusOr<KeyPair> ToPem(X509* certificate, EVP_PKEY* key) {
  const Bio certificate_text(BIO_new(BIO_s_mem()));
  const Bio key_text(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_X509(certificate_text.get(), certificate) != 1 ||
      PEM_write_bio_PrivateKey(key_text.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return Failed("write a certificate");
  }
  return KeyPair{TextOf(certificate_text.get()), TextOf(key_text.get())};
}

}  // namespace

absl::StatusOr<KeyPair> MakeAuthority(absl::Time now) {
  const Key key(EVP_EC_gen("P-256"));
  const Certificate certificate(X509_new());
  if (key == nullptr || certificate == nullptr) return Failed("make a key");
  const absl::Status status = Prepare(certificate.get(), key.get(), "ham coordinator CA", now, absl::Hours(24 * 3650));
  if (!status.ok()) return status;
  X509_set_issuer_name(certificate.get(), X509_get_subject_name(certificate.get()));
  if (!AddExtension(certificate.get(), certificate.get(), NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
      !AddExtension(certificate.get(), certificate.get(), NID_key_usage, "critical,keyCertSign,cRLSign") ||
      !AddExtension(certificate.get(), certificate.get(), NID_subject_key_identifier, "hash") ||
      X509_sign(certificate.get(), key.get(), EVP_sha256()) == 0) {
    return Failed("sign the CA certificate");
  }
  return ToPem(certificate.get(), key.get());
}

absl::StatusOr<KeyPair> MakeServerCertificate(const KeyPair& authority, const std::vector<std::string>& names,
                                              absl::Time now) {
  const Certificate issuer = ParseCertificate(authority.certificate);
  const Key issuer_key = ParseKey(authority.key);
  if (issuer == nullptr || issuer_key == nullptr) {
    return absl::DataLossError(
        "ca.pem or ca.key in the state directory is damaged: restore it, or remove both (clients "
        "and workers then need the new bootstrap files)");
  }
  const Key key(EVP_EC_gen("P-256"));
  const Certificate certificate(X509_new());
  if (key == nullptr || certificate == nullptr) return Failed("make a key");
  const absl::Status status = Prepare(certificate.get(), key.get(), "ham coordinator", now, absl::Hours(24 * 5 * 365));
  if (!status.ok()) return status;
  X509_set_issuer_name(certificate.get(), X509_get_subject_name(issuer.get()));
  std::string subject;
  for (const std::string& name : names) {
    absl::StrAppend(&subject, subject.empty() ? "" : ",", IsAddress(name) ? "IP:" : "DNS:", name);
  }
  if (!AddExtension(certificate.get(), issuer.get(), NID_subject_alt_name, subject)) {
    return absl::InvalidArgumentError(absl::StrCat("--advertise: one of ", subject, " is no host name or address"));
  }
  if (!AddExtension(certificate.get(), issuer.get(), NID_basic_constraints, "critical,CA:FALSE") ||
      !AddExtension(certificate.get(), issuer.get(), NID_ext_key_usage, "serverAuth") ||
      !AddExtension(certificate.get(), issuer.get(), NID_authority_key_identifier, "keyid") ||
      X509_sign(certificate.get(), issuer_key.get(), EVP_sha256()) == 0) {
    return Failed("sign the server certificate");
  }
  return ToPem(certificate.get(), key.get());
}

absl::StatusOr<bool> CoversNames(const std::string& certificate, const std::string& authority,
                                 const std::vector<std::string>& names, absl::Time until) {
  const Certificate parsed = ParseCertificate(certificate);
  const Certificate issuer = ParseCertificate(authority);
  if (parsed == nullptr || issuer == nullptr) {
    return absl::DataLossError(
        "server.pem or ca.pem in the state directory is no certificate: remove server.pem to get "
        "a new one, restore ca.pem");
  }
  if (X509_verify(parsed.get(), X509_get0_pubkey(issuer.get())) != 1) return false;
  time_t end = absl::ToTimeT(until);
  if (X509_cmp_time(X509_get0_notAfter(parsed.get()), &end) <= 0) return false;
  for (const std::string& name : names) {
    const bool covered = IsAddress(name) ? X509_check_ip_asc(parsed.get(), name.c_str(), 0) == 1
                                         : X509_check_host(parsed.get(), name.c_str(), name.size(), 0, nullptr) == 1;
    if (!covered) return false;
  }
  return true;
}

absl::StatusOr<absl::Time> CertificateExpiry(const std::string& certificate) {
  const Certificate parsed = ParseCertificate(certificate);
  struct tm end = {};
  if (parsed == nullptr || ASN1_TIME_to_tm(X509_get0_notAfter(parsed.get()), &end) != 1) {
    return absl::DataLossError("server.pem in the state directory is no certificate: remove it to get a new one");
  }
  return absl::FromTM(end, absl::UTCTimeZone());
}

}  // namespace ham::server

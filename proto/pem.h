// OpenSSL's objects as owners of themselves, and PEM texts.
#pragma once

#include <openssl/bio.h>
#include <openssl/x509.h>

#include <memory>
#include <string>

namespace ham {

template <class T, void (*kFree)(T*)>
struct OpenSslFree {
  void operator()(T* object) const { kFree(object); }
};
using Certificate = std::unique_ptr<X509, OpenSslFree<X509, X509_free>>;
using Bio = std::unique_ptr<BIO, OpenSslFree<BIO, BIO_free_all>>;

// Reads `text`, which must outlive it.
Bio Reader(const std::string& text);
// What was written to a BIO of BIO_s_mem.
std::string TextOf(BIO* bio);
// The first certificate in a PEM text; null if there is none.
Certificate ParseCertificate(const std::string& pem);

}  // namespace ham

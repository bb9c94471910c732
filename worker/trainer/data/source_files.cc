#include "worker/trainer/data/source_files.h"

#include <openssl/evp.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <fstream>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace ham::trainer {
namespace {

constexpr size_t kDigestChunkBytes = size_t{16} << 20;
constexpr time_t kYoungSeconds = 2;  // file systems keep times to 4 ms, network ones to a second

}  // namespace

absl::Status DamagedFile(const std::string& path, const std::string& what) {
  return absl::DataLossError(absl::StrCat(path, ": ", what, "; fetch the data set again"));
}

absl::StatusOr<std::string> ReadSourceFile(const std::string& path, uint64_t max_bytes) {
  struct stat file {};
  if (stat(path.c_str(), &file) != 0 || !S_ISREG(file.st_mode)) {
    return absl::NotFoundError(absl::StrCat("there is no file ", path));
  }
  const auto size = static_cast<uint64_t>(file.st_size);
  if (size > max_bytes) {
    return DamagedFile(path, absl::StrCat("it has ", size, " bytes, more than the allowed ", max_bytes));
  }
  std::ifstream stream(path, std::ios::binary);
  if (!stream) return absl::UnavailableError(absl::StrCat(path, " cannot be opened: ", std::strerror(errno)));
  std::string bytes(size, '\0');
  stream.read(bytes.data(), static_cast<std::streamsize>(size));
  if (static_cast<uint64_t>(stream.gcount()) != size) {
    return absl::UnavailableError(absl::StrCat("reading ", path, " failed at offset ", stream.gcount()));
  }
  return bytes;
}

absl::StatusOr<std::string> FileIdentity(const std::vector<std::string>& paths) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  Sha256 digest;
  for (const std::string& path : paths) {
    struct stat file {};
    if (stat(path.c_str(), &file) != 0) return absl::NotFoundError(absl::StrCat("there is no file ", path));
    digest.Update(absl::StrCat(path, "\n", file.st_size, " ", file.st_mtim.tv_sec, " ", file.st_mtim.tv_nsec, " ",
                               file.st_ctim.tv_sec, " ", file.st_ctim.tv_nsec, " ", file.st_ino, "\n"));
    if (file.st_mtim.tv_sec + kYoungSeconds >= now.tv_sec) digest.Update(absl::StrCat(now.tv_sec, " ", now.tv_nsec));
  }
  return digest.Hex();
}

SourceDigest::SourceDigest(bool with_md5, std::function<void()> tick)
    : md5_context_(with_md5 ? EVP_MD_CTX_new() : nullptr), tick_(std::move(tick)) {}

SourceDigest::~SourceDigest() { EVP_MD_CTX_free(md5_context_); }

void SourceDigest::AddName(std::string_view name) {
  sha256_.Update(name);
  sha256_.Update("\n");
}

void SourceDigest::Add(const std::string& path, std::string_view bytes) {
  for (size_t at = 0; at < bytes.size(); at += kDigestChunkBytes) {
    sha256_.Update(bytes.substr(at, kDigestChunkBytes));
    tick_();
  }
  if (md5_context_ == nullptr) return;
  std::array<unsigned char, EVP_MAX_MD_SIZE> md5;
  unsigned size = 0;
  EVP_DigestInit_ex(md5_context_, EVP_md5(), nullptr);
  EVP_DigestUpdate(md5_context_, bytes.data(), bytes.size());
  EVP_DigestFinal_ex(md5_context_, md5.data(), &size);
  md5_[path] = absl::BytesToHexString({reinterpret_cast<const char*>(md5.data()), size});
}

}  // namespace ham::trainer

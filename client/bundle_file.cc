#include "client/bundle_file.h"

#include <unistd.h>
#include <zip.h>

#include <cstring>
#include <memory>
#include <regex>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "client/new_file.h"

namespace ham::client {
namespace {

constexpr char kRemoved[] = "[removed]";

// Each part from `begin` to the first `end` behind it, or to the end of the text.
void Cut(const std::string& begin, const std::string& end, std::string* text) {
  for (size_t at = text->find(begin); at != std::string::npos; at = text->find(begin, at + 1)) {
    const size_t last = text->find(end, at + begin.size());
    text->replace(at, last == std::string::npos ? std::string::npos : last + end.size() - at, kRemoved);
  }
}

// Of `begin`, however its letters are written, the word that follows, up to a blank or a quote.
void CutWordAfter(const std::regex& begin, std::string* text) {
  std::string result;
  auto rest = text->cbegin();
  for (std::smatch match; std::regex_search(rest, text->cend(), match, begin);) {
    result.append(rest, match[0].second).append(kRemoved);
    rest = match[0].second;
    while (rest != text->cend() && std::strchr(" \t\r\n\"'\\,;", *rest) == nullptr) ++rest;
  }
  *text = result.append(rest, text->cend());
}

absl::Status NoArchive(const std::string& path, const std::string& why) {
  return absl::FailedPreconditionError(absl::StrCat("cannot write ", path, ": ", why));
}

}  // namespace

std::string WithoutSecrets(std::string text, const std::vector<std::string>& secrets) {
  static const std::regex kBearer("bearer[ \t]+", std::regex::icase);
  static const std::regex kToken("\\\\?\"token\\\\?\"\\s*:\\s*\\\\?\"");
  for (const std::string& secret : secrets) {
    if (!secret.empty()) text = absl::StrReplaceAll(text, {{secret, kRemoved}});
  }
  CutWordAfter(kBearer, &text);
  CutWordAfter(kToken, &text);
  for (const char* kind : {"", "RSA ", "EC ", "ENCRYPTED ", "OPENSSH "}) {
    Cut(absl::StrCat("-----BEGIN ", kind, "PRIVATE KEY-----"), absl::StrCat("-----END ", kind, "PRIVATE KEY-----"),
        &text);
  }
  return text;
}

absl::Status WriteBundle(const std::string& path, const std::vector<BundleEntry>& entries) {
  // Made first, so that it is private from its first byte; the library replaces it and keeps its mode.
  const absl::StatusOr<int> file = CreateFile(path, 0600, kBundleFlag);
  if (!file.ok()) return file.status();
  ::close(*file);
  int code = 0;
  std::unique_ptr<zip_t, decltype(&zip_discard)> archive(zip_open(path.c_str(), ZIP_TRUNCATE, &code), &zip_discard);
  absl::Status status;
  if (archive == nullptr) status = NoArchive(path, "the archive cannot be made");
  for (const BundleEntry& entry : entries) {
    if (!status.ok()) break;
    zip_source_t* const source = zip_source_buffer(archive.get(), entry.text.data(), entry.text.size(), /*freep=*/0);
    if (source == nullptr || zip_file_add(archive.get(), entry.name.c_str(), source, ZIP_FL_ENC_UTF_8) < 0) {
      status = NoArchive(path, zip_strerror(archive.get()));
      zip_source_free(source);
    }
  }
  if (status.ok()) {
    if (zip_close(archive.get()) == 0) {
      archive.release();
    } else {
      status = NoArchive(path, zip_strerror(archive.get()));
    }
  }
  if (!status.ok()) ::unlink(path.c_str());
  return status;
}

}  // namespace ham::client

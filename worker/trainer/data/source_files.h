// Reading a data set's own files: bounded, and with errors that name the file.
//
// All functions are stateless and safe from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/sha256.h"

struct evp_md_ctx_st;

namespace ham::trainer {

inline constexpr uint64_t kMostDeflated = 1032;  // bytes that one byte of deflate can stand for

// DataLoss: "PATH: WHAT; fetch the data set again".
absl::Status DamagedFile(const std::string& path, const std::string& what);

// The bytes of a plain file. NotFound if there is none, DataLoss if it has more than `max_bytes` (nothing is read
// then), Unavailable if reading fails. Takes the file's size in memory.
absl::StatusOr<std::string> ReadSourceFile(const std::string& path, uint64_t max_bytes);

// Size, times of change and inode of each file, as a lower-case hex SHA-256: the same as long as nobody touched them.
// Of a file written within the last two seconds, whose next change might leave no trace, it is never the same twice.
// NotFound names a missing file.
absl::StatusOr<std::string> FileIdentity(const std::vector<std::string>& paths);

// Digest of a data set's files in the order in which they are added. One thread at a time.
class SourceDigest {
 public:
  // with_md5: an MD5 of each file too, as publishers of data sets give. `tick` is called on the adding thread, with
  // each chunk: reading is under way.
  explicit SourceDigest(
      bool with_md5 = false, std::function<void()> tick = [] {});
  ~SourceDigest();
  SourceDigest(const SourceDigest&) = delete;
  SourceDigest& operator=(const SourceDigest&) = delete;

  void Add(const std::string& path, std::string_view bytes);
  // For what is read before it is added.
  void Tick() const { tick_(); }
  // Where names are part of the data, as in an image folder.
  void AddName(std::string_view name);
  // Lower-case hex SHA-256 of all; call once.
  std::string Hex() { return sha256_.Hex(); }
  // Lower-case hex by path.
  const std::map<std::string, std::string>& md5() const { return md5_; }

 private:
  Sha256 sha256_;
  evp_md_ctx_st* const md5_context_;  // null: no MD5
  const std::function<void()> tick_;
  std::map<std::string, std::string> md5_;
};

}  // namespace ham::trainer

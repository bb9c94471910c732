// A split of a data set as one file that every rank of a host maps: the bytes exist once, however many ranks read.
//
// Format, numbers little-endian:
//       0   8  "HAMDATA\n"
//       8   4  version, 2
//      12   4  CRC-32 (zlib's) of everything from offset 16
//      16   8  N, rows
//      24   8  C, H, W, classes, 2 bytes each
//      32  64  name, zero bytes behind it
//      96  64  SHA-256 of the source files (source_files.h), lower-case hex
//     160  64  identity of the source files, lower-case hex
//     224   8  how many of N, the last, are extra training data
//    4096      images [N, H, W, C], then zero bytes up to a multiple of 8
//              labels [N], 8 bytes each
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/trainer/data/image_set.h"
#include "worker/trainer/data/readers.h"

namespace ham::trainer {

// What a prepared file must be of.
struct PreparedKey {
  std::string name;  // data set and split, fewer than 64 characters
  int64_t channels = 0;
  int64_t height = 0;
  int64_t width = 0;
  std::vector<std::string> class_names;
  std::string identity;  // FileIdentity of the source files
};

// All functions: stateless, safe from any thread.

// The bytes of the file. Takes their size in memory beside `images`.
std::string PackImages(const PreparedKey& key, const LabelledImages& images, const std::string& source_digest);

// `bytes` must stay as long as `storage` does. Checks everything, with a `tick` for each chunk: NotFound if the file is
// of other sources than `key` says, or of another version; DataLoss if it is damaged; both name `path`.
absl::StatusOr<ImageSet> ParsePrepared(
    const std::string& path, const PreparedKey& key, std::span<const uint8_t> bytes,
    std::shared_ptr<const void> storage, const std::function<void()>& tick = [] {});

// The same of a file, which is mapped read-only and shared. NotFound where there is none. Files are only ever replaced
// whole; one that another program cuts short while it is mapped ends this one (SIGBUS).
absl::StatusOr<ImageSet> MapPrepared(
    const std::string& path, const PreparedKey& key, const std::function<void()>& tick = [] {});

}  // namespace ham::trainer

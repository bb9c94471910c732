// IDX files, the format of MNIST and Fashion-MNIST: two zero bytes, a byte for the element type, a byte for
// the number of dimensions, each dimension as a 4-byte big-endian integer, then the elements.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ham::trainer {

struct IdxFile {
  std::vector<uint32_t> shape;
  std::string bytes;       // the whole file, unpacked
  size_t data_offset = 0;  // of the first element in `bytes`
};

// Reads `path`, or `path`.gz where that is missing. Only unsigned bytes with exactly `dimensions`
// dimensions and at most `max_elements` elements. NotFound if there is neither file; DataLoss names the
// file and what is wrong: magic, cut, too long, trailing bytes, damaged compression.
absl::StatusOr<IdxFile> ReadIdx(const std::string& path, size_t dimensions, uint64_t max_elements);

}  // namespace ham::trainer

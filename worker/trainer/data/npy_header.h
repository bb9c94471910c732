// The head of a .npy file, versions 1 to 3 of NumPy's format. Stateless; safe from any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace ham::trainer {

inline constexpr uint64_t kMaxNpyHeaderBytes = 4096;  // NumPy's own have 128

struct NpyHeader {
  std::string type;             // of an element, as NumPy writes it: "|u1", "<i8"
  std::vector<uint64_t> shape;  // at most 8 dimensions, in C order: the last index runs fastest
  uint64_t bytes = 0;           // of the header; the elements follow
};

// `start`: the file's first kMaxNpyHeaderBytes, or all of it. DataLoss says what is wrong, without naming the file:
// among it arrays in Fortran order, of records or of Python objects (pickles, which are never read).
absl::StatusOr<NpyHeader> ParseNpyHeader(std::string_view start);

}  // namespace ham::trainer

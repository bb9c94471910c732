// Prepared data sets. The first byte says whether the checksum is made to fit, so that what lies behind it is tried.
#include <zlib.h>

#include <cstring>
#include <memory>

#include "tests/fuzz/fuzz.h"
#include "worker/trainer/data/prepared_images.h"

namespace ham::fuzz {
namespace {

const trainer::PreparedKey& Key() {
  static const auto& key = *new trainer::PreparedKey{"toy/train", 1, 4, 4, {"a", "b"}, std::string(64, 'e')};
  return key;
}

}  // namespace

std::vector<std::string> Seeds() {
  const std::string digest(64, 'd');
  const std::string one = trainer::PackImages(Key(), {1, 4, 4, std::string(16, 'p'), {1}}, digest);
  const std::string three = trainer::PackImages(Key(), {1, 4, 4, std::string(48, 'q'), {1, 0, 1}}, digest);
  return {std::string(1, '\0') + one, "\1" + one, "\1" + three};
}

void TryInput(const std::string& input) {
  if (input.empty()) return;
  // On the heap and of its very size, so that a read beyond it is seen.
  const auto bytes = std::make_shared<const std::vector<uint8_t>>([&input] {
    std::vector<uint8_t> out(input.begin() + 1, input.end());
    if ((input[0] & 1) != 0 && out.size() >= 16) {
      const auto crc = static_cast<uint32_t>(crc32_z(0, out.data() + 16, out.size() - 16));
      std::memcpy(out.data() + 12, &crc, sizeof(crc));
    }
    return out;
  }());
  const auto set = trainer::ParsePrepared("file", Key(), *bytes, bytes);
  if (!set.ok()) {
    Check(set.status().code() == absl::StatusCode::kDataLoss || set.status().code() == absl::StatusCode::kNotFound,
          "a wrong file is data loss or another's: " + set.status().ToString());
    return;
  }
  Check(set->rows >= 1 && set->images.size() == static_cast<size_t>(set->rows) * 16, "each image is there");
  Check(set->extra_rows >= 0 && set->own_rows() >= 1, "a set has rows of its own");
  for (const int64_t label : set->labels) Check(label == 0 || label == 1, "labels are of a class");
}

}  // namespace ham::fuzz

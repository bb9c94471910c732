// Extra training data. The first byte says what the others are: an archive, or its two arrays, which are then packed
// with checksums that fit, so that what lies behind these is tried.
#include "worker/trainer/data/npz.h"

#include <algorithm>

#include "tests/fuzz/fuzz.h"
#include "tests/support/npz_file.h"
#include "tests/support/temporary_directory.h"

namespace ham::fuzz {
namespace {

constexpr size_t kClasses = 3;

// "\1" or "\2" (deflated), the size of the first array in two bytes, the arrays.
std::string Arrays(bool compress, const std::string& image, const std::string& label) {
  std::string out(1, compress ? '\2' : '\1');
  out += static_cast<char>(image.size() >> 8);
  out += static_cast<char>(image.size() & 0xff);
  return out + image + label;
}

void WriteInput(const std::string& path, const std::string& input) {
  if (input[0] == 0 || input.size() < 3) return testing::WriteTestFile(path, input.substr(1));
  const size_t size = static_cast<size_t>(static_cast<uint8_t>(input[1])) << 8 | static_cast<uint8_t>(input[2]);
  const std::string arrays = input.substr(3);
  const size_t split = std::min(size, arrays.size());
  testing::WriteNpz(path, arrays.substr(0, split), arrays.substr(split), input[0] == 2);
}

}  // namespace

std::vector<std::string> Seeds() {
  const testing::TemporaryDirectory directory;
  const std::string path = directory / "file.npz";
  const std::string image = testing::NpyImages(2, 2, 2, 3, 'a'), label = testing::NpyLabels({0, 2});
  std::vector<std::string> seeds;
  for (const bool compress : {false, true}) {
    testing::WriteNpz(path, image, label, compress);
    seeds.push_back(std::string(1, '\0') + testing::ReadTestFile(path));
    seeds.push_back(Arrays(compress, image, label));
  }
  seeds.push_back(Arrays(false, image, testing::NpyOf("|u1", "2,", {"\1\2", 2})));
  seeds.push_back(Arrays(false, image, testing::NpyOf("<i4", "2,", {"\1\0\0\0\2\0\0\0", 8})));
  return seeds;
}

void TryInput(const std::string& input) {
  if (input.empty()) return;
  static const testing::TemporaryDirectory* const directory = new testing::TemporaryDirectory;
  const std::string path = *directory / "file.npz";
  WriteInput(path, input);
  trainer::LabelledImages images{3, 2, 2, std::string(12, 'o'), {1}};
  const absl::Status status = trainer::AppendNpz(path, kClasses, &images, nullptr);
  if (!status.ok()) {
    Check(status.code() == absl::StatusCode::kDataLoss, "a wrong file is data loss: " + status.ToString());
    return;
  }
  Check(images.extra_rows >= 1 && images.labels.size() == 1 + static_cast<size_t>(images.extra_rows) &&
            images.pixels.size() == images.labels.size() * 12,
        "each image is there");
  for (const int64_t label : images.labels) Check(label >= 0 && label < 3, "labels are of a class");
}

}  // namespace ham::fuzz

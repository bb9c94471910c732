// SVHN's MAT files.
#include <filesystem>

#include "tests/fuzz/fuzz.h"
#include "tests/support/image_files.h"
#include "tests/support/temporary_directory.h"
#include "worker/trainer/data/readers.h"

namespace ham::fuzz {

std::vector<std::string> Seeds() {
  const testing::TemporaryDirectory directory;
  const std::string path = directory / "file.mat";
  std::vector<std::string> seeds;
  for (const bool compress : {false, true}) {
    for (const std::vector<double>& labels : {std::vector<double>{3}, std::vector<double>{1, 10}}) {
      testing::WriteMat5(path, labels, compress);
      seeds.push_back(testing::ReadTestFile(path));
    }
  }
  return seeds;
}

void TryInput(const std::string& input) {
  static const testing::TemporaryDirectory* const directory = new testing::TemporaryDirectory;
  const trainer::KnownDataSet& set = *trainer::FindDataSet("svhn");
  testing::WriteTestFile(*directory / set.test.files[0].name, input);
  const auto images = trainer::ReadMat5Split(directory->path(), set, trainer::Split::kTest, nullptr);
  if (!images.ok()) {
    Check(images.status().code() == absl::StatusCode::kDataLoss,
          "a wrong file is data loss: " + images.status().ToString());
    return;
  }
  Check(!images->labels.empty() && images->pixels.size() == images->labels.size() * 3072, "each image is there");
  for (const int64_t label : images->labels) Check(label >= 0 && label < 10, "labels are of a class");
}

}  // namespace ham::fuzz

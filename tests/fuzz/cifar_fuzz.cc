// CIFAR's binary records. The first byte chooses the version; the rest is repeated to fill whole records, or not.
#include <filesystem>

#include "tests/fuzz/fuzz.h"
#include "tests/support/temporary_directory.h"
#include "worker/trainer/data/readers.h"

namespace ham::fuzz {

std::vector<std::string> Seeds() {
  return {std::string(1, '\0') + std::string(3073, '\5'),
          "\1" + std::string(2 * 3073, '\x0a'),
          "\2" + std::string(3074, '\5'),
          "\3" + std::string(3074, '\x13'),
          std::string("\4\7\7", 3),
          std::string("\6\3\x63", 3)};
}

void TryInput(const std::string& input) {
  static const testing::TemporaryDirectory* const directory = new testing::TemporaryDirectory;
  if (input.empty()) return;
  const int how = static_cast<unsigned char>(input[0]);
  const trainer::KnownDataSet& set = *trainer::FindDataSet((how & 2) != 0 ? "cifar-100" : "cifar-10");
  std::string bytes = input.substr(1);
  const size_t record = (how & 2) != 0 ? 3074 : 3073;
  if ((how & 4) != 0) bytes.resize((bytes.size() + record - 1) / record * record, '\1');
  testing::WriteTestFile(*directory / set.test.files[0].name, bytes);
  const auto images = trainer::ReadCifarSplit(directory->path(), set, trainer::Split::kTest, nullptr);
  if (!images.ok()) {
    Check(images.status().code() == absl::StatusCode::kDataLoss,
          "a wrong file is data loss: " + images.status().ToString());
    return;
  }
  Check(images->labels.size() * record == bytes.size() && images->pixels.size() == images->labels.size() * 3072,
        "each record is there");
  for (const int64_t label : images->labels) {
    Check(label >= 0 && label < static_cast<int64_t>(set.class_names.size()), "labels are of a class");
  }
}

}  // namespace ham::fuzz

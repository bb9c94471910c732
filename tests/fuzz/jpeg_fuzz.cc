// JPEG files of an image folder.
#include "tests/fuzz/fuzz.h"
#include "tests/support/image_files.h"
#include "worker/trainer/data/jpeg.h"

namespace ham::fuzz {

std::vector<std::string> Seeds() {
  using testing::Jpeg;
  using testing::Ramp;
  return {Jpeg(Ramp(17, 23), 17, 23, 3, 80), Jpeg(std::vector<uint8_t>(20 * 12, 90), 20, 12, 1),
          Jpeg(std::vector<uint8_t>(16 * 16 * 4, 9), 16, 16, 4), Jpeg(Ramp(2, 40), 2, 40, 3)};
}

void TryInput(const std::string& input) {
  trainer::JpegDecoder decoder;
  for (const int size : {8, 20}) {
    const size_t bytes = static_cast<size_t>(size * size * 3);
    std::vector<uint8_t> out(bytes + 1, 77);
    const absl::Status status = decoder.Decode("file", input, size, out.data());
    Check(out[bytes] == 77, "no byte too many is written");
    Check(status.ok() || status.code() == absl::StatusCode::kDataLoss,
          "a wrong file is data loss: " + status.ToString());
  }
}

}  // namespace ham::fuzz

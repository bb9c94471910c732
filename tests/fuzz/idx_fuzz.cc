// Files of data sets. The first byte says how the rest lies on disk: as it is, packed by us, or taken for a packed
// file.
#include "worker/trainer/data/idx.h"

#include <zlib.h>

#include <filesystem>

#include "tests/fuzz/fuzz.h"
#include "tests/support/temporary_directory.h"

namespace ham::fuzz {
namespace {

constexpr uint64_t kMostElements = 4096;

std::string Gzip(const std::string& bytes) {
  z_stream stream{};
  Check(deflateInit2(&stream, 1, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK, "zlib works");
  std::string packed(deflateBound(&stream, bytes.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  Check(deflate(&stream, Z_FINISH) == Z_STREAM_END, "zlib works");
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

const std::string kLabels("\0\0\x08\x01\0\0\0\x03\x01\x02\x03", 11);
const std::string kImages("\0\0\x08\x03\0\0\0\x01\0\0\0\x02\0\0\0\x02\x01\x02\x03\x04", 20);

}  // namespace

std::vector<std::string> Seeds() {
  return {std::string(1, '\0') + kLabels,
          std::string(1, '\0') + kImages,
          "\x01" + kLabels,
          "\x01" + kImages,
          "\x02" + Gzip(kLabels),
          "\x02" + Gzip(kImages),
          "\x02" + Gzip(std::string(10000, 'a'))};
}

void TryInput(const std::string& input) {
  static const testing::TemporaryDirectory* const directory = new testing::TemporaryDirectory;
  if (input.empty()) return;
  const int how = static_cast<unsigned char>(input[0]) % 3;
  std::string bytes = input.substr(1);
  if (how == 1) bytes = Gzip(bytes);
  const std::string path = *directory / "file";
  const std::string packed = path + ".gz";
  testing::WriteTestFile(how == 0 ? path : packed, bytes);
  std::filesystem::remove(how == 0 ? packed : path);
  for (const size_t dimensions : {1, 3}) {
    const absl::StatusOr<trainer::IdxFile> idx = trainer::ReadIdx(path, dimensions, kMostElements);
    if (!idx.ok()) {
      Check(idx.status().code() == absl::StatusCode::kDataLoss,
            "a wrong file is data loss: " + idx.status().ToString());
      continue;
    }
    Check(idx->shape.size() == dimensions, "there are as many dimensions as asked for");
    uint64_t elements = 1;
    for (const uint32_t size : idx->shape) elements *= size;
    Check(elements <= kMostElements && idx->bytes.size() == idx->data_offset + elements, "each element is there");
  }
}

}  // namespace ham::fuzz

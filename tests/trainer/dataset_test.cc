#include "worker/trainer/data/dataset.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <zlib.h>

#include <algorithm>
#include <filesystem>
#include <string>

#include "proto/sha256.h"
#include "tests/support/channel_statistics.h"
#include "tests/support/temporary_directory.h"

namespace ham::trainer {
namespace {

using testing::WriteTestFile;

constexpr char kTrainImages[] = "train-images-idx3-ubyte";
constexpr char kTrainLabels[] = "train-labels-idx1-ubyte";
constexpr char kTestImages[] = "t10k-images-idx3-ubyte";
constexpr char kTestLabels[] = "t10k-labels-idx1-ubyte";
constexpr size_t kPixels = 28 * 28;

std::string BigEndian(uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift);
  return bytes;
}

std::string Images(uint32_t rows, uint32_t height = 28, uint32_t width = 28) {
  std::string bytes("\0\0\x08\x03", 4);
  bytes += BigEndian(rows) + BigEndian(height) + BigEndian(width);
  for (uint32_t i = 0; i < rows * height * width; ++i) bytes += static_cast<char>(i * 7 + i / kPixels);
  return bytes;
}

std::string Labels(const std::string& labels) {
  return std::string("\0\0\x08\x01", 4) + BigEndian(static_cast<uint32_t>(labels.size())) + labels;
}

std::string Gzip(const std::string& bytes) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string packed(deflateBound(&stream, bytes.size()) + 64, '\0');
  std::string input = bytes;
  stream.next_in = reinterpret_cast<Bytef*>(input.data());
  stream.avail_in = static_cast<uInt>(input.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

std::vector<int64_t> LabelsOf(const ImageSet& set) { return {set.labels.begin(), set.labels.end()}; }

class DataSetTest : public ::testing::Test {
 protected:
  DataSetTest() {
    Put(kTrainImages, Images(3));
    Put(kTrainLabels, Labels({0, 9, 4}));
    Put(kTestImages, Images(2));
    Put(kTestLabels, Labels({1, 2}));
  }
  std::string Path(const std::string& name) { return root_ / ("fashion-mnist/" + name); }
  void Put(const std::string& name, const std::string& bytes) { WriteTestFile(Path(name), bytes); }
  absl::StatusOr<ImageSet> Load(Split split = Split::kTrain) {
    return LoadDataSet(root_.path(), "fashion-mnist", split);
  }
  // Puts `bytes` in the place of a train file and expects a refusal that names it and holds `words`.
  void ExpectDamaged(const std::string& name, const std::string& bytes, const std::string& words) {
    std::filesystem::remove(Path(name.ends_with(".gz") ? name.substr(0, name.size() - 3) : name));
    Put(name, bytes);
    const absl::Status status = Load().status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_NE(status.message().find(Path(name)), std::string::npos) << status;
    EXPECT_NE(status.message().find(words), std::string::npos) << status;
  }

  testing::TemporaryDirectory root_;
};

TEST_F(DataSetTest, LoadsBothSplits) {
  const auto train = Load();
  ASSERT_TRUE(train.ok()) << train.status();
  EXPECT_EQ(train->rows, 3);
  EXPECT_EQ(train->channels, 1);
  EXPECT_EQ(train->height, 28);
  EXPECT_EQ(train->width, 28);
  EXPECT_EQ(LabelsOf(*train), (std::vector<int64_t>{0, 9, 4}));
  ASSERT_EQ(train->images.size(), 3 * kPixels);
  EXPECT_EQ(train->images[1], 7);
  EXPECT_EQ(train->images[kPixels], static_cast<uint8_t>(kPixels * 7 + 1));
  EXPECT_EQ(train->class_names.size(), 10U);
  EXPECT_EQ(train->class_names[6], "Shirt");
  EXPECT_EQ(LabelsOf(*Load(Split::kTest)), (std::vector<int64_t>{1, 2}));
}

TEST_F(DataSetTest, ReadsPackedFilesWithTheSameDigest) {
  const std::vector<DataSetInfo> plain = InspectDataSets(root_.path());
  ASSERT_EQ(plain.size(), 1U);
  ASSERT_TRUE(plain[0].status.ok()) << plain[0].status;
  EXPECT_EQ(plain[0].name, "fashion-mnist");
  EXPECT_EQ(plain[0].path, root_ / "fashion-mnist");
  EXPECT_EQ(plain[0].digest, Sha256Hex(Images(3) + Labels({0, 9, 4}) + Images(2) + Labels({1, 2})));
  for (const char* name : {kTrainImages, kTrainLabels, kTestImages, kTestLabels}) {
    Put(std::string(name) + ".gz", Gzip(testing::ReadTestFile(Path(name))));
    std::filesystem::remove(Path(name));
  }
  EXPECT_EQ(InspectDataSets(root_.path())[0].digest, plain[0].digest);
  EXPECT_EQ(LabelsOf(*Load()), (std::vector<int64_t>{0, 9, 4}));
}

TEST_F(DataSetTest, NamesWhatIsUnknownOrMissing) {
  const absl::Status unknown = LoadDataSet(root_.path(), "letters", Split::kTrain).status();
  EXPECT_TRUE(absl::IsInvalidArgument(unknown)) << unknown;
  EXPECT_NE(unknown.message().find("fashion-mnist"), std::string::npos) << unknown;
  EXPECT_TRUE(absl::IsNotFound(LoadDataSet(root_ / "none", "fashion-mnist", Split::kTrain).status()));
  EXPECT_TRUE(InspectDataSets(root_ / "none").empty());
  std::filesystem::remove(Path(kTrainLabels));
  const absl::Status missing = Load().status();
  EXPECT_TRUE(absl::IsNotFound(missing)) << missing;
  EXPECT_NE(missing.message().find(kTrainLabels), std::string::npos);
  EXPECT_TRUE(Load(Split::kTest).ok());
  const std::vector<DataSetInfo> infos = InspectDataSets(root_.path());
  ASSERT_EQ(infos.size(), 1U);
  EXPECT_TRUE(absl::IsNotFound(infos[0].status));
  EXPECT_EQ(infos[0].digest, "");
}

TEST_F(DataSetTest, EveryCutOfTheLabelsIsSeen) {
  const std::string whole = Labels({0, 9, 4});
  for (size_t size = 0; size < whole.size(); ++size) {
    ExpectDamaged(kTrainLabels, whole.substr(0, size), size < 8 ? "within its header" : "is cut");
  }
}

TEST_F(DataSetTest, CutsOfTheImagesAreSeen) {
  const std::string whole = Images(3);
  for (size_t size = 0; size < whole.size(); size += size < 32 ? 1 : 97) {
    ExpectDamaged(kTrainImages, whole.substr(0, size), size < 16 ? "within its header" : "is cut");
  }
  ExpectDamaged(kTrainImages, whole.substr(0, whole.size() - 1), "is cut");
}

TEST_F(DataSetTest, EveryCutOfAPackedFileIsSeen) {
  const std::string packed = Gzip(Labels({0, 9, 4}));
  for (size_t size = 0; size < packed.size(); ++size) {
    ExpectDamaged(std::string(kTrainLabels) + ".gz", packed.substr(0, size), "is cut");
  }
}

TEST_F(DataSetTest, FlippedBytesOfAPackedFileNeverChangeTheData) {
  const std::string packed = Gzip(Labels({0, 9, 4}));
  std::filesystem::remove(Path(kTrainLabels));
  size_t harmless = 0;
  for (size_t i = 10; i < packed.size(); ++i) {  // behind gzip's header, which holds a time and a system
    std::string damaged = packed;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x20);
    Put(std::string(kTrainLabels) + ".gz", damaged);
    const absl::StatusOr<ImageSet> set = Load();
    if (set.ok()) {
      EXPECT_EQ(LabelsOf(*set), (std::vector<int64_t>{0, 9, 4})) << i;
      ++harmless;
    } else {
      EXPECT_TRUE(absl::IsDataLoss(set.status())) << i << ": " << set.status();
    }
  }
  EXPECT_LE(harmless, 1U);  // the bits that fill the last byte of the compressed data
}

TEST_F(DataSetTest, TrailingBytesAreSeen) {
  const std::string packed = std::string(kTrainLabels) + ".gz";
  ExpectDamaged(packed, Gzip(Labels({0, 9, 4}) + "x"), "after the last");
  ExpectDamaged(packed, Gzip(Labels({0, 9, 4})) + "garbage", "after the end of the compressed data");
  ExpectDamaged(packed, Labels({0, 9, 4}), "cannot be unpacked");
  std::filesystem::remove(Path(packed));
  ExpectDamaged(kTrainLabels, Labels({0, 9, 4}) + "x", "after the last");
}

TEST_F(DataSetTest, WrongMagicIsSeen) {
  for (size_t i = 0; i < 4; ++i) {
    std::string bytes = Labels({0, 9, 4});
    bytes[i] = static_cast<char>(bytes[i] ^ 4);
    ExpectDamaged(kTrainLabels, bytes, "magic");
  }
  ExpectDamaged(kTrainLabels, Images(3), "magic");
}

TEST_F(DataSetTest, HeadersThatAnnounceTooMuchAreSeen) {
  const std::string magic("\0\0\x08\x03", 4);
  const std::string big = BigEndian(0xffffffffU);
  ExpectDamaged(kTrainImages, magic + big + big + big, "more than");
  ExpectDamaged(kTrainImages, magic + big + BigEndian(28) + BigEndian(28), "more than");
  ExpectDamaged(kTrainImages, magic + BigEndian(4) + BigEndian(28) + BigEndian(28) + std::string(3 * kPixels, 'x'),
                "is cut");
}

// The most memory that this process has held, in MiB.
int64_t PeakMiB() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss >> 10;
}

TEST_F(DataSetTest, AFileThatHoldsMoreThanItAnnouncesIsNotRead) {
  std::filesystem::resize_file(Path(kTrainImages), uint64_t{1} << 36);  // sparse
  const int64_t before = PeakMiB();
  EXPECT_NE(Load().status().message().find("after the last"), std::string::npos) << Load().status();
  std::filesystem::remove(Path(kTrainImages));
  // 256 MiB in about one.
  const gzFile bomb = gzopen((Path(kTrainImages) + ".gz").c_str(), "wb1");
  const std::string start = Images(3), zeros(1 << 20, '\0');
  gzwrite(bomb, start.data(), static_cast<unsigned>(start.size()));
  for (int i = 0; i < 256; ++i) gzwrite(bomb, zeros.data(), static_cast<unsigned>(zeros.size()));
  ASSERT_EQ(gzclose(bomb), Z_OK);
  EXPECT_NE(Load().status().message().find("after the last"), std::string::npos) << Load().status();
  EXPECT_LT(PeakMiB() - before, 64);
}

TEST_F(DataSetTest, WrongSizesAndLabelsAreSeen) {
  ExpectDamaged(kTrainImages, Images(3, 32, 28), "32 x 28");
  ExpectDamaged(kTrainImages, Images(0), "no images");
  Put(kTrainImages, Images(3));
  ExpectDamaged(kTrainLabels, Labels({0, 1}), "2 labels for 3 images");
  ExpectDamaged(kTrainLabels, Labels({0, 10, 1}), "label 10 of row 1");
}

TEST_F(DataSetTest, InspectTellsWhatIsDamaged) {
  Put(kTestLabels, Labels({1, 77}));
  const std::vector<DataSetInfo> infos = InspectDataSets(root_.path());
  ASSERT_EQ(infos.size(), 1U);
  EXPECT_TRUE(absl::IsDataLoss(infos[0].status)) << infos[0].status;
  EXPECT_EQ(infos[0].digest, "");
}

TEST(RealDataSetTest, LoadsDebiansFashionMnist) {
  constexpr char kRoot[] = "/usr/share/datasets";
  if (!std::filesystem::exists(std::string(kRoot) + "/fashion-mnist")) {
    GTEST_SKIP() << "Debian's dataset-fashion-mnist is not installed";
  }
  const testing::TemporaryDirectory cache;
  const auto train = LoadDataSet(kRoot, "fashion-mnist", Split::kTrain, {.cache_directory = cache.path()});
  ASSERT_TRUE(train.ok()) << train.status();
  EXPECT_EQ(train->rows, 60'000);
  testing::ExpectNormalization(*train, "fashion-mnist", 5e-4);
  for (int64_t label = 0; label < 10; ++label) {
    EXPECT_EQ(std::count(train->labels.begin(), train->labels.end(), label), 6'000);
  }
  const auto test = LoadDataSet(kRoot, "fashion-mnist", Split::kTest, {.cache_directory = cache.path()});
  ASSERT_TRUE(test.ok()) << test.status();
  EXPECT_EQ(test->rows, 10'000);
  EXPECT_EQ(test->labels[0], 9);  // an ankle boot, as the publication's first test image
  const std::vector<DataSetInfo> infos = InspectDataSets(kRoot);
  ASSERT_EQ(infos.size(), 1U);
  EXPECT_EQ(infos[0].digest.size(), 64U) << infos[0].status;
}

}  // namespace
}  // namespace ham::trainer

// CIFAR, SVHN and Imagenette files; IDX is in dataset_test.cc.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/sha256.h"
#include "tests/support/channel_statistics.h"
#include "tests/support/image_files.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/test_data.h"
#include "worker/trainer/data/dataset.h"
#include "worker/trainer/data/jpeg.h"

namespace ham::trainer {
namespace {

using testing::Jpeg;
using testing::MatPixel;
using testing::Ramp;
using testing::ReadTestFile;
using testing::TestData;
using testing::WriteMat5;
using testing::WriteTestFile;

class DataFormatsTest : public ::testing::Test {
 protected:
  void Put(const std::string& name, const std::string& bytes) { WriteTestFile(root_ / name, bytes); }
  absl::StatusOr<ImageSet> Load(const std::string& name, Split split = Split::kTrain, LoadOptions options = {}) {
    return LoadDataSet(root_.path(), name, split, options);
  }
  // Expects that `set` is refused with an error that names `file` and holds `words`.
  void ExpectDamaged(const std::string& set, const std::string& file, const std::string& words) {
    const absl::Status status = Load(set).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_NE(status.message().find(root_ / file), std::string::npos) << status;
    EXPECT_NE(status.message().find(words), std::string::npos) << status;
  }

  testing::TemporaryDirectory root_;
};

// Record of one CIFAR image: plane c of row n holds n * 40 + c * 60 + column.
std::string CifarRecord(const std::string& labels, int n) {
  std::string record = labels;
  for (int c = 0; c < 3; ++c) {
    for (int i = 0; i < 1024; ++i) record += static_cast<char>(n * 40 + c * 60 + i % 32);
  }
  return record;
}

class CifarTest : public DataFormatsTest {
 protected:
  CifarTest() {
    for (int i = 1; i <= 5; ++i) {
      Put(absl::StrCat("cifar-10/data_batch_", i, ".bin"), CifarRecord({static_cast<char>(i)}, i));
    }
    Put("cifar-10/test_batch.bin", CifarRecord({7}, 0) + CifarRecord({8}, 1));
    Put("cifar-100/train.bin", CifarRecord({3, 99}, 0) + CifarRecord({19, 0}, 1));
    Put("cifar-100/test.bin", CifarRecord({1, 50}, 0));
  }
};

TEST_F(CifarTest, LoadsTheBatchesInOrder) {
  const auto train = Load("cifar-10");
  ASSERT_TRUE(train.ok()) << train.status();
  EXPECT_EQ(std::vector<int64_t>(train->labels.begin(), train->labels.end()), (std::vector<int64_t>{1, 2, 3, 4, 5}));
  EXPECT_EQ(train->channels, 3);
  ASSERT_EQ(train->images.size(), 5U * 3072);
  for (int64_t row = 0; row < 5; ++row) {
    for (int64_t i : {0, 33, 1023}) {
      for (int64_t c = 0; c < 3; ++c) {
        EXPECT_EQ(train->images[row * 3072 + i * 3 + c], static_cast<uint8_t>((row + 1) * 40 + c * 60 + i % 32));
      }
    }
  }
  EXPECT_EQ(train->class_names[9], "truck");
  EXPECT_EQ(Load("cifar-10", Split::kTest)->rows, 2);
}

TEST_F(CifarTest, LoadsFineLabels) {
  const auto train = Load("cifar-100");
  ASSERT_TRUE(train.ok()) << train.status();
  EXPECT_EQ(std::vector<int64_t>(train->labels.begin(), train->labels.end()), (std::vector<int64_t>{99, 0}));
  EXPECT_EQ(train->class_names.size(), 100U);
  EXPECT_EQ(train->class_names[99], "worm");
  EXPECT_EQ(train->images[1], 60);  // green of the first pixel
}

TEST_F(CifarTest, NamesWhatIsDamaged) {
  const std::string record = CifarRecord({4}, 3), file = "cifar-10/data_batch_3.bin";
  for (const size_t size : {size_t{1}, size_t{3072}, size_t{3074}, record.size() * 2 - 1}) {
    Put(file, (record + record).substr(0, size));
    ExpectDamaged("cifar-10", file, absl::StrCat("the record at offset ", size / 3073 * 3073, " is cut"));
  }
  Put(file, "");
  ExpectDamaged("cifar-10", file, "empty");
  Put(file, record + CifarRecord({10}, 3));
  ExpectDamaged("cifar-10", file, "label at offset 3073 is 10");
  std::filesystem::remove(root_ / file);
  EXPECT_TRUE(absl::IsNotFound(Load("cifar-10").status()));
  EXPECT_NE(Load("cifar-10").status().message().find(root_ / file), std::string::npos);
  Put("cifar-100/train.bin", CifarRecord({3, 100}, 0));
  ExpectDamaged("cifar-100", "cifar-100/train.bin", "label at offset 1 is 100");
  Put("cifar-100/train.bin", CifarRecord({20, 0}, 0));
  ExpectDamaged("cifar-100", "cifar-100/train.bin", "coarse label at offset 0 is 20");
}

TEST_F(CifarTest, AHugeFileIsNotRead) {
  std::filesystem::resize_file(root_ / "cifar-100/train.bin", uint64_t{1} << 40);  // sparse
  ExpectDamaged("cifar-100", "cifar-100/train.bin", "more than the allowed");
}

TEST_F(CifarTest, OnlyAnImageFolderIsResized) {
  EXPECT_TRUE(Load("cifar-10", Split::kTrain, {.image_size = 32}).ok());
  const absl::Status status = Load("cifar-10", Split::kTrain, {.image_size = 64}).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_NE(status.message().find("image_size is 64"), std::string::npos) << status;
}

class SvhnTest : public DataFormatsTest {
 protected:
  SvhnTest() { std::filesystem::create_directories(root_ / "svhn"); }
  const std::string file_ = "svhn/train_32x32.mat";
};

TEST_F(SvhnTest, LoadsPlainAndCompressedFiles) {
  for (const bool compress : {false, true}) {
    ASSERT_NO_FATAL_FAILURE(WriteMat5(root_ / file_, {1, 10, 9}, compress));
    const auto train = Load("svhn");
    ASSERT_TRUE(train.ok()) << train.status();
    EXPECT_EQ(std::vector<int64_t>(train->labels.begin(), train->labels.end()), (std::vector<int64_t>{1, 0, 9}));
    size_t i = 0;
    for (size_t n = 0; n < 3; ++n) {
      for (size_t h = 0; h < 32; ++h) {
        for (size_t w = 0; w < 32; ++w) {
          for (size_t c = 0; c < 3; ++c) ASSERT_EQ(train->images[i++], MatPixel(n, h, w, c)) << n << h << w << c;
        }
      }
    }
  }
}

TEST_F(SvhnTest, NamesWhatIsDamaged) {
  for (const double label : {0.0, 11.0, 2.5, -1.0, std::nan("")}) {
    ASSERT_NO_FATAL_FAILURE(WriteMat5(root_ / file_, {1, label}));
    ExpectDamaged("svhn", file_, "of row 1");
  }
  ASSERT_NO_FATAL_FAILURE(WriteMat5(root_ / file_, {1, 2}, true, 28));
  ExpectDamaged("svhn", file_, "28 x 32 x 3 x 2");
  Put(file_, "MATLAB 5.0 MAT-file, but not for long");
  ExpectDamaged("svhn", file_, "header");
  std::filesystem::remove(root_ / file_);
  EXPECT_TRUE(absl::IsNotFound(Load("svhn").status()));
}

TEST_F(SvhnTest, CutsAreSeen) {
  for (const bool compress : {false, true}) {
    ASSERT_NO_FATAL_FAILURE(WriteMat5(root_ / file_, {1, 2, 3}, compress));
    const std::string whole = ReadTestFile(root_ / file_);
    for (size_t size = 0; size < whole.size(); size += size < 400 ? 3 : 499) {
      Put(file_, whole.substr(0, size));
      ExpectDamaged("svhn", file_, "");
    }
  }
}

TEST_F(SvhnTest, AShapeThatTheFileCannotHoldIsRefused) {
  ASSERT_NO_FATAL_FAILURE(WriteMat5(root_ / file_, {1, 2, 3}, false));
  std::string bytes = ReadTestFile(root_ / file_);
  const std::string shape("\x20\0\0\0\x20\0\0\0\x03\0\0\0\x03\0\0\0", 16);
  const size_t at = bytes.find(shape);
  ASSERT_NE(at, std::string::npos);
  bytes[at + 14] = 0x10;  // 2^20 images more
  Put(file_, bytes);
  ExpectDamaged("svhn", file_,
                "the element at offset 128 is no array of bytes or doubles, or its shape is not that of its data");
}

TEST_F(SvhnTest, OtherKindsOfVariablesAreRefusedUnread) {  // matio allocated 6 GB for one
  ASSERT_NO_FATAL_FAILURE(WriteMat5(root_ / file_, {1, 2, 3}, false));
  const std::string whole = ReadTestFile(root_ / file_);
  for (const char kind : {1, 2, 3, 4, 5, 16}) {  // cell, struct, object, text, sparse, function
    std::string bytes = whole;
    bytes[144] = kind;
    Put(file_, bytes);
    ExpectDamaged("svhn", file_, "the element at offset 128 is no array of bytes or doubles");
  }
}

class ImageFolderTest : public DataFormatsTest {
 protected:
  ImageFolderTest() {
    for (const char* split : {"train", "val"}) {
      for (const std::string& wnid : FindDataSet("imagenette")->class_folders) {
        for (const char* name : {"a.JPEG", "b.JPEG"}) {
          Put(absl::StrCat("imagenette/", split, "/", wnid, "/", name), Jpeg(Ramp(40, 24), 40, 24, 3));
        }
      }
    }
  }
  const std::string folder_ = "imagenette/train/n02102040/";
};

TEST_F(ImageFolderTest, LoadsByClassThenNameWhateverTheThreads) {
  Put(folder_ + "aa.JPEG", Jpeg(std::vector<uint8_t>(30 * 30, 200), 30, 30, 1));  // grey
  int ticks = 0;
  const auto one = Load("imagenette", Split::kTrain, {.image_size = 16, .threads = 1, .tick = [&] { ++ticks; }});
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_GE(ticks, 2 * 21);  // with each file that is decoded, and again when it is added to the digest
  const auto four = Load("imagenette", Split::kTrain, {.image_size = 16, .threads = 4});
  ASSERT_TRUE(four.ok()) << four.status();
  EXPECT_EQ(one->rows, 21);
  EXPECT_EQ(std::vector<int64_t>(one->labels.begin(), one->labels.begin() + 6),
            (std::vector<int64_t>{0, 0, 1, 1, 1, 2}));
  EXPECT_TRUE(std::equal(one->images.begin(), one->images.end(), four->images.begin(), four->images.end()));
  for (int64_t i = 0; i < 16 * 16 * 3; ++i) EXPECT_NEAR(one->images[3 * 16 * 16 * 3 + i], 200, 1) << i;
  EXPECT_EQ(Load("imagenette", Split::kTest)->height, 32);  // the default
}

TEST_F(ImageFolderTest, RefusesWhatDoesNotBelongThere) {
  const std::string foreign = "imagenette/train/n09999999";
  Put(foreign + "/a.JPEG", "x");
  ExpectDamaged("imagenette", "imagenette/train", "n09999999 does not belong there");
  std::filesystem::remove_all(root_ / foreign);
  Put(folder_ + "notes.txt", "x");
  ExpectDamaged("imagenette", folder_ + "notes.txt", "only plain files");
  std::filesystem::remove(root_ / (folder_ + "notes.txt"));
  std::filesystem::create_symlink(root_ / (folder_ + "a.JPEG"), root_ / (folder_ + "link.JPEG"));
  ExpectDamaged("imagenette", folder_ + "link.JPEG", "only plain files");
  std::filesystem::remove_all(root_ / folder_);
  ExpectDamaged("imagenette", "imagenette/train", "n02102040 is missing");
  std::filesystem::create_directories(root_ / folder_);
  ExpectDamaged("imagenette", folder_.substr(0, folder_.size() - 1), "no images");
  std::filesystem::remove_all(root_ / "imagenette/train");
  EXPECT_TRUE(absl::IsNotFound(Load("imagenette").status()));
}

TEST_F(ImageFolderTest, NamesTheFirstDamagedFileWhateverTheThreads) {
  for (const char* name : {"a.JPEG", "b.JPEG"}) Put(folder_ + name, "no JPEG");
  Put("imagenette/train/n03888257/b.JPEG", "no JPEG either");
  for (const int threads : {1, 2, 4}) {
    const absl::Status status = Load("imagenette", Split::kTrain, {.image_size = 16, .threads = threads}).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_NE(status.message().find(folder_ + "a.JPEG"), std::string::npos) << status;
  }
}

TEST_F(ImageFolderTest, ImageSizesHaveBounds) {
  for (const int size : {-1, 7, 513}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Load("imagenette", Split::kTrain, {.image_size = size}).status())) << size;
  }
}

absl::Status Decode(const std::string& bytes, int size, std::vector<uint8_t>* out) {
  out->resize(static_cast<size_t>(size * size * 3));
  return JpegDecoder().Decode("a.JPEG", bytes, size, out->data());
}

TEST(JpegDecoderTest, CutsTheCentreOfTheResizedImage) {
  // 80 x 40 with a ramp becomes 20 x 20 of the middle: red 64 to 191, green 0 to 255.
  std::vector<uint8_t> out;
  ASSERT_TRUE(Decode(Jpeg(Ramp(80, 40), 80, 40, 3), 20, &out).ok());
  for (int y = 0; y < 20; ++y) {
    for (int x = 0; x < 20; ++x) {
      const uint8_t* const pixel = out.data() + (y * 20 + x) * 3;
      EXPECT_NEAR(pixel[0], 255 * ((x + 10) * 2 + 0.5) / 79, 4) << x << " " << y;
      EXPECT_NEAR(pixel[1], 255 * (y * 2 + 0.5) / 39, 5) << x << " " << y;
      EXPECT_NEAR(pixel[2], 128, 3) << x << " " << y;
    }
  }
}

TEST(JpegDecoderTest, AveragesWhatItReduces) {
  std::vector<uint8_t> stripes;  // columns of 0 and 255: without antialiasing some results were 0 or 255
  for (int i = 0; i < 96 * 96; ++i) stripes.push_back(i % 2 * 255);
  std::vector<uint8_t> out;
  ASSERT_TRUE(Decode(Jpeg(stripes, 96, 96, 1, 100), 12, &out).ok());
  for (size_t i = 0; i < out.size(); ++i) EXPECT_NEAR(out[i], 127.5, 8) << i;
}

// One result value, straight from the definition, of `pixels` [height, width, 3].
double Resized(const std::vector<uint8_t>& pixels, int height, int width, int side, int y, int x, int channel) {
  const int shorter = std::min(height, width);
  const auto weights = [&](int from, int at) {
    const int to = side * from / shorter;
    const double scale = static_cast<double>(from) / to, radius = std::max(1.0, scale);
    const double centre = ((to - side) / 2 + at + 0.5) * scale;
    std::vector<double> out;
    for (int i = 0; i < from; ++i) out.push_back(std::max(0.0, 1 - std::abs(i + 0.5 - centre) / radius));
    return out;
  };
  const std::vector<double> down = weights(height, y), across = weights(width, x);
  double sum = 0, weight = 0;
  for (int i = 0; i < height; ++i) {
    for (int j = 0; down[i] > 0 && j < width; ++j) {
      sum += down[i] * across[j] * pixels[(i * width + j) * 3 + channel];
      weight += down[i] * across[j];
    }
  }
  return sum / weight;
}

TEST(JpegDecoderTest, FollowsTheDefinitionOfTheFilter) {
  for (const auto& [height, width, side] : {std::array{200, 333, 160}, std::array{97, 64, 32}, std::array{251, 170, 9},
                                            std::array{20, 31, 50}, std::array{1, 40, 8}}) {
    std::vector<uint8_t> noise;
    for (int i = 0; i < height * width * 3; ++i) noise.push_back(static_cast<uint8_t>(i * 2654435761U >> 24));
    const std::string bytes = Jpeg(noise, width, height, 3);
    std::vector<uint8_t> decoded(noise.size()), out;
    const tjhandle handle = tjInitDecompress();
    ASSERT_EQ(tjDecompress2(handle, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), decoded.data(),
                            width, 0, height, TJPF_RGB, 0),
              0);
    tjDestroy(handle);
    ASSERT_TRUE(Decode(bytes, side, &out).ok());
    for (int i = 0; i < side * side * 3; i += side * side < 1000 ? 1 : 37) {
      ASSERT_NEAR(out[i], Resized(decoded, height, width, side, i / 3 / side, i / 3 % side, i % 3), 0.52)
          << height << " x " << width << " to " << side << ", " << i;
    }
  }
}

TEST(JpegDecoderTest, EnlargesAndKeepsSizes) {
  std::vector<uint8_t> out;
  ASSERT_TRUE(Decode(Jpeg(Ramp(9, 9), 9, 9, 3), 18, &out).ok());
  EXPECT_NEAR(out[0], 0, 4);
  EXPECT_NEAR(out[17 * 3], 255, 4);
  ASSERT_TRUE(Decode(Jpeg(Ramp(16, 16), 16, 16, 3), 16, &out).ok());
  EXPECT_NEAR(out[15 * 3], 255, 4);
}

TEST(JpegDecoderTest, RefusesCmykByName) {
  std::vector<uint8_t> out;
  const absl::Status status = Decode(Jpeg(std::vector<uint8_t>(16 * 16 * 4, 9), 16, 16, 4), 8, &out);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_NE(status.message().find("a.JPEG: its colours are CMYK"), std::string::npos) << status;
}

TEST(JpegDecoderTest, CutsAreSeen) {
  const std::string whole = Jpeg(Ramp(33, 47), 33, 47, 3);
  std::vector<uint8_t> out;
  for (size_t size = 0; size < whole.size() - 2; size += 7) {  // the last two bytes only say that it ends
    const absl::Status status = Decode(whole.substr(0, size), 8, &out);
    EXPECT_TRUE(absl::IsDataLoss(status)) << size << ": " << status;
  }
}

TEST(JpegDecoderTest, AHeaderThatClaimsTooMuchIsRefused) {
  std::string bytes = Jpeg(Ramp(16, 16), 16, 16, 3);
  const size_t frame = bytes.find(std::string("\xff\xc0", 2));
  ASSERT_NE(frame, std::string::npos);
  bytes.replace(frame + 5, 4, "\xfe\xfe\xfe\xfe");
  std::vector<uint8_t> out;
  const absl::Status status = Decode(bytes, 8, &out);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_NE(status.message().find("65278 x 65278"), std::string::npos) << status;
}

std::vector<int64_t> ClassRows(const ImageSet& set) {
  std::vector<int64_t> rows(set.class_names.size());
  for (const int64_t label : set.labels) ++rows[label];
  return rows;
}

class RealDataFormatsTest : public DataFormatsTest {};

TEST_F(RealDataFormatsTest, LoadsCifar10) {
  const std::string packed = TestData("cifar-10-batches-bin");
  if (packed.empty()) GTEST_SKIP() << "HAM_TEST_DATA names no folder with cifar-10-batches-bin";
  std::filesystem::create_directories(root_ / "cifar-10");
  ASSERT_EQ(
      std::system(absl::StrCat("xz -dkc ", packed, "/test_batch.bin.xz >", root_ / "cifar-10/test_batch.bin").c_str()),
      0);
  const auto test = Load("cifar-10", Split::kTest);
  ASSERT_TRUE(test.ok()) << test.status();
  EXPECT_EQ(ClassRows(*test), FindDataSet("cifar-10")->test.class_rows);
  EXPECT_EQ(std::vector<int64_t>(test->labels.begin(), test->labels.begin() + 4), (std::vector<int64_t>{3, 8, 8, 0}));
  testing::ExpectNormalization(*test, "cifar-10", 0.01);  // of the training images
  EXPECT_EQ(test->images[0], 158);                        // as in the official pickles
  EXPECT_EQ(test->images[1], 112);
  EXPECT_EQ(test->images[2], 49);
}

TEST_F(RealDataFormatsTest, LoadsSamplesOfCifar100) {
  const std::string folder = TestData("cifar-100-sample");
  if (folder.empty()) GTEST_SKIP() << "HAM_TEST_DATA names no folder with cifar-100-sample";
  std::filesystem::create_directory_symlink(folder, root_ / "cifar-100");
  const auto train = Load("cifar-100");
  ASSERT_TRUE(train.ok()) << train.status();
  EXPECT_EQ(train->rows, 2000);
  testing::ExpectNormalization(*train, "cifar-100", 0.02);
  EXPECT_EQ(Load("cifar-100", Split::kTest)->rows, 1000);
  std::string names;
  for (const std::string& name : train->class_names) names += name + "\n";
  EXPECT_EQ(ReadTestFile(folder + "/fine_label_names.txt").substr(0, names.size()), names);
}

TEST_F(RealDataFormatsTest, LoadsASampleOfSvhn) {
  const std::string file = TestData("svhn-sample/train_first1083_32x32.mat");
  if (file.empty()) GTEST_SKIP() << "HAM_TEST_DATA names no folder with svhn-sample";
  std::filesystem::create_directories(root_ / "svhn");
  std::filesystem::create_symlink(file, root_ / "svhn/train_32x32.mat");
  const auto train = Load("svhn");
  ASSERT_TRUE(train.ok()) << train.status();
  testing::ExpectNormalization(*train, "svhn", 0.03);
  EXPECT_EQ(ClassRows(*train), (std::vector<int64_t>{66, 227, 141, 134, 110, 112, 78, 70, 78, 67}));
}

TEST_F(RealDataFormatsTest, LoadsASampleOfImagenette) {
  const std::string folder = TestData("imagenette-sample");
  if (folder.empty()) GTEST_SKIP() << "HAM_TEST_DATA names no folder with imagenette-sample";
  std::filesystem::create_directory_symlink(folder, root_ / "imagenette");
  const auto train = Load("imagenette", Split::kTrain, {.image_size = 64});
  ASSERT_TRUE(train.ok()) << train.status();
  EXPECT_EQ(ClassRows(*train), std::vector<int64_t>(10, 30));
  testing::ExpectNormalization(*train, "imagenette", 0.08);  // the table has ImageNet's
  EXPECT_EQ(Load("imagenette", Split::kTest, {.image_size = 32})->rows, 150);
}

TEST_F(RealDataFormatsTest, LoadsTheTestSetOfMnist) {
  const std::string folder = TestData("mnist-test");
  if (folder.empty()) GTEST_SKIP() << "HAM_TEST_DATA names no folder with mnist-test";
  std::filesystem::create_directory_symlink(folder, root_ / "mnist");
  const auto test = Load("mnist", Split::kTest);
  ASSERT_TRUE(test.ok()) << test.status();
  testing::ExpectNormalization(*test, "mnist", 0.005);
  EXPECT_EQ(ClassRows(*test), FindDataSet("mnist")->test.class_rows);
  EXPECT_TRUE(absl::IsNotFound(Load("mnist").status()));
}

}  // namespace
}  // namespace ham::trainer

#include "worker/trainer/data/npz.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/support/npz_file.h"
#include "tests/support/temporary_directory.h"
#include "worker/trainer/data/dataset.h"
#include "worker/trainer/data/inspect.h"
#include "worker/trainer/data/npy_header.h"

namespace ham::trainer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Npy;
using testing::NpyImages;
using testing::NpyLabels;
using testing::NpyOf;
using testing::WriteNpz;
using testing::WriteZip;

TEST(NpyHeaderTest, ReadsWhatNumPyWrites) {
  const std::string dictionary = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }";
  for (const int version : {1, 2, 3}) {
    std::string bytes = Npy(dictionary, "");
    bytes[6] = static_cast<char>(version);
    if (version > 1) bytes.insert(10, 2, '\0');
    const auto header = ParseNpyHeader(bytes + "elements");
    ASSERT_TRUE(header.ok()) << header.status();
    EXPECT_EQ(header->type, "|u1");
    EXPECT_THAT(header->shape, ElementsAre(2, 3));
    EXPECT_EQ(header->bytes, bytes.size());
  }
  for (const auto& [shape, expected] : std::vector<std::pair<std::string, std::vector<uint64_t>>>{
           {"", {}}, {"7,", {7}}, {"7 , 8", {7, 8}}, {"1,2,3,4,5,6,7,8", {1, 2, 3, 4, 5, 6, 7, 8}}}) {
    const auto header = ParseNpyHeader(NpyOf("<i8", shape, ""));
    ASSERT_TRUE(header.ok()) << shape << header.status();
    EXPECT_EQ(header->shape, expected);
  }
  EXPECT_TRUE(ParseNpyHeader(Npy("{\"shape\":(1,),\"fortran_order\":False,\"descr\":\"<i4\"}      ", "")).ok());
}

TEST(NpyHeaderTest, SaysWhatIsWrong) {
  const auto words = [](const std::string& bytes) {
    const auto header = ParseNpyHeader(bytes);
    EXPECT_TRUE(absl::IsDataLoss(header.status())) << bytes;
    return std::string(header.status().message());
  };
  const auto dictionary = [&words](const std::string& text) { return words(Npy(text, "")); };
  const std::string order = "'fortran_order': False", shape = "'shape': (1,)", type = "'descr': '|u1'";
  EXPECT_THAT(words("PK"), HasSubstr("does not start as"));
  EXPECT_THAT(words(std::string("\x93NUMPY\4\0\0\0", 10)), HasSubstr("version 4.0"));
  EXPECT_THAT(words(std::string("\x93NUMPY\1\1\0\0", 10)), HasSubstr("version 1.1"));
  EXPECT_THAT(words(std::string("\x93NUMPY\2\0\xff\xff\xff\xff", 12)), HasSubstr("4294967295 bytes"));
  const std::string whole = NpyOf("|u1", "1,", "");
  for (size_t size = 0; size < whole.size(); ++size) EXPECT_NE(words(whole.substr(0, size)), "");
  EXPECT_THAT(dictionary("[]"), HasSubstr("no dictionary"));
  EXPECT_THAT(dictionary("{'descr': '|O', " + order + ", " + shape + "}"), HasSubstr("pickle"));
  EXPECT_THAT(dictionary("{'descr': [('a', '<i4')], " + order + ", " + shape + "}"), HasSubstr("records"));
  EXPECT_THAT(dictionary("{'descr': 3, " + order + ", " + shape + "}"), HasSubstr("type of its elements"));
  EXPECT_THAT(dictionary("{" + type + ", 'fortran_order': True, " + shape + "}"), HasSubstr("Fortran order"));
  EXPECT_THAT(dictionary("{" + type + ", 'fortran_order': 0, " + shape + "}"), HasSubstr("order of elements"));
  for (const char* bad : {"(1", "(1)", "(-1,)", "(1 2)", "(1,,)", "1", "(1.5,)", "(99999999999999999999,)",
                          "(1,1,1,1,1,1,1,1,1)", "(L,)"}) {
    EXPECT_THAT(dictionary("{" + type + ", " + order + ", 'shape': " + bad + "}"), HasSubstr("shape")) << bad;
  }
  EXPECT_THAT(dictionary("{" + type + ", " + type + ", " + order + "}"), HasSubstr("two entries \"descr\""));
  EXPECT_THAT(dictionary("{" + type + ", " + order + "}"), HasSubstr("not descr, fortran_order and shape"));
  EXPECT_THAT(dictionary("{" + type + ", " + order + ", " + shape + "} + 1"), HasSubstr("not descr"));
  EXPECT_THAT(dictionary("{" + type + ", " + order + ", " + shape + ", 'more': 1}"), HasSubstr("not NumPy's"));
  for (const std::string& bad : {"{" + type + " " + order + ", " + shape + "}", std::string("{descr: 1}"), "{" + type,
                                 std::string("{'descr"), std::string("{'descr' '|u1'}")}) {
    EXPECT_THAT(dictionary(bad), HasSubstr("cannot be read")) << bad;
  }
}

class NpzTest : public ::testing::Test {
 protected:
  // Of images 2 x 2 x 3 in three classes, behind one own row.
  absl::Status Append() {
    images_ = {3, 2, 2, std::string(12, 'o'), {2}};
    return AppendNpz(path_, 3, &images_, nullptr);
  }
  std::string Words() {
    const absl::Status status = Append();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(std::string(status.message()), ::testing::StartsWith(path_ + ": "));
    return std::string(status.message());
  }
  std::string WordsOf(const std::string& image, const std::string& label) {
    WriteNpz(path_, image, label);
    return Words();
  }

  testing::TemporaryDirectory root_;
  const std::string path_ = root_ / "file.npz";
  const std::string images_of_3_ = NpyImages(3, 2, 2, 3, 'a');
  LabelledImages images_;
};

TEST_F(NpzTest, AppendsRows) {
  for (const bool compress : {false, true}) {
    WriteZip(path_, {{"other.npy", "x"}, {"label.npy", NpyLabels({0, 2, 1})}, {"image.npy", images_of_3_}}, compress);
    ASSERT_TRUE(Append().ok()) << Append();
    EXPECT_THAT(images_.labels, ElementsAre(2, 0, 2, 1));
    EXPECT_EQ(images_.pixels,
              std::string(12, 'o') + std::string(12, 'a') + std::string(12, 'b') + std::string(12, 'c'));
    EXPECT_EQ(images_.extra_rows, 3);
  }
}

TEST_F(NpzTest, ReadsMoreThanAHeadFull) {  // the head and the rest come in two reads
  for (const bool compress : {false, true}) {
    const std::string image = NpyImages(2000, 2, 2, 3, 'a');
    WriteNpz(path_, image, NpyLabels(std::vector<int64_t>(2000, 1)), compress);
    ASSERT_TRUE(Append().ok()) << Append();
    EXPECT_EQ(images_.pixels.substr(12), image.substr(image.size() - 24000));
  }
}

TEST_F(NpzTest, TakesEveryIntegerTypeAndGreyImagesWithoutChannels) {
  for (const auto& [type, bytes] : std::vector<std::pair<const char*, std::string>>{
           {"|u1", {"\0\2\1", 3}},
           {"|i1", {"\0\2\1", 3}},
           {"<i2", {"\0\0\2\0\1\0", 6}},
           {"<u2", {"\0\0\2\0\1\0", 6}},
           {"<i4", {"\0\0\0\0\2\0\0\0\1\0\0\0", 12}},
           {"<u4", {"\0\0\0\0\2\0\0\0\1\0\0\0", 12}},
           {"<u8", {"\0\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0", 24}}}) {
    WriteNpz(path_, images_of_3_, NpyOf(type, "3,", bytes));
    ASSERT_TRUE(Append().ok()) << type << Append();
    EXPECT_THAT(images_.labels, ElementsAre(2, 0, 2, 1)) << type;
  }
  WriteNpz(path_, NpyOf("|u1", "1, 2, 2", "abcd"), NpyLabels({0}));
  LabelledImages grey{1, 2, 2, {}, {}};
  ASSERT_TRUE(AppendNpz(path_, 1, &grey, nullptr).ok());
  EXPECT_EQ(grey.pixels, "abcd");
}

TEST_F(NpzTest, TakesAnySquareWhereTheShapeIsOpen) {
  WriteNpz(path_, images_of_3_, NpyLabels({0, 1, 2}));
  LabelledImages open{3, 0, 0, {}, {}};
  ASSERT_TRUE(AppendNpz(path_, 3, &open, nullptr).ok());
  EXPECT_EQ(open.height, 2);
  EXPECT_EQ(open.width, 2);
  WriteNpz(path_, NpyImages(1, 2, 3, 3, 'a'), NpyLabels({0}));
  open = {3, 0, 0, {}, {}};
  EXPECT_TRUE(absl::IsDataLoss(AppendNpz(path_, 3, &open, nullptr)));
}

TEST_F(NpzTest, RefusesOtherArrays) {
  const std::string labels = NpyLabels({0, 1, 2});
  EXPECT_THAT(WordsOf(NpyOf("<f4", "3, 2, 2, 3", std::string(144, 'x')), labels),
              HasSubstr("type \"<f4\"; allowed is |u1"));
  EXPECT_THAT(WordsOf(NpyOf("\xff", "3, 2, 2, 3", ""), labels), HasSubstr("type \"?\""));
  EXPECT_THAT(WordsOf(NpyImages(3, 2, 3, 3, 'a'), labels),
              HasSubstr("shape is [3, 2, 3, 3]; images of the data set are 2 x 2 x 3"));
  EXPECT_THAT(WordsOf(NpyOf("|u1", "3, 3, 2, 2", std::string(36, 'x')), labels), HasSubstr("[3, 3, 2, 2]"));
  EXPECT_THAT(WordsOf(NpyOf("|u1", "3, 2, 2", std::string(12, 'x')), labels), HasSubstr("[3, 2, 2]"));
  EXPECT_THAT(WordsOf(NpyOf("|u1", "0, 2, 2, 3", ""), NpyLabels({})), HasSubstr("0 rows; allowed is 1 to 9999999"));
  EXPECT_THAT(WordsOf(NpyOf("|u1", "10000000, 2, 2, 3", ""), labels), HasSubstr("10000000 rows"));
  EXPECT_THAT(WordsOf(NpyOf("|u1", "18446744073709551615, 2, 2, 3", ""), labels), HasSubstr("rows; allowed"));
  EXPECT_THAT(WordsOf(NpyOf("|u1", "4, 2, 2, 3", std::string(36, 'x')), labels),
              HasSubstr("takes 48 bytes, it has 36"));
  EXPECT_THAT(WordsOf(NpyOf("|u1", "2, 2, 2, 3", std::string(36, 'x')), labels),
              HasSubstr("takes 24 bytes, it has 36"));
  EXPECT_THAT(WordsOf(NpyOf("|O", "3, 2, 2, 3", "x"), labels),
              HasSubstr("array \"image\": its elements are Python objects"));
  EXPECT_THAT(WordsOf(images_of_3_, NpyLabels({0, 1})),
              HasSubstr("array \"label\": its shape is [2] in 16 bytes; there are 3 images"));
  EXPECT_THAT(WordsOf(images_of_3_, NpyOf("<i8", "3, 1", std::string(24, '\0'))), HasSubstr("[3, 1]"));
  EXPECT_THAT(WordsOf(images_of_3_, NpyOf("<i8", "3,", std::string(23, '\0'))), HasSubstr("in 23 bytes"));
  for (const char* type : {"<f8", ">i8", "<i3", "|b1", "<U1", "i8", "=i8"}) {
    EXPECT_THAT(WordsOf(images_of_3_, NpyOf(type, "3,", std::string(24, '\0'))), HasSubstr("allowed are integers"));
  }
}

TEST_F(NpzTest, NamesTheRowOfALabelOutOfRange) {
  EXPECT_THAT(WordsOf(images_of_3_, NpyLabels({0, 1, 3})), HasSubstr("row 2 has label 3; allowed is 0 to 2"));
  EXPECT_THAT(WordsOf(images_of_3_, NpyLabels({0, -1, 3})), HasSubstr("row 1 has label -1"));
  EXPECT_THAT(WordsOf(images_of_3_, NpyOf("|i1", "3,", {"\0\xfe\0", 3})), HasSubstr("row 1 has label -2"));
  EXPECT_THAT(WordsOf(images_of_3_, NpyOf("|u1", "3,", {"\0\xfe\0", 3})), HasSubstr("row 1 has label 254"));
  EXPECT_THAT(WordsOf(images_of_3_, NpyOf("<u8", "3,", std::string(24, '\xff'))),
              HasSubstr("row 0 has label 18446744073709551615"));
}

TEST_F(NpzTest, RefusesOtherArchives) {
  const std::string labels = NpyLabels({0, 1, 2});
  WriteZip(path_, {{"x.npy", images_of_3_}, {"y.npy", labels}});
  EXPECT_THAT(Words(),
              HasSubstr("array \"image\": there is none; the archive holds 2 files, among them x.npy, y.npy; "));
  WriteZip(path_, {{"image.npy", images_of_3_}});
  EXPECT_THAT(Words(), HasSubstr("array \"label\": there is none"));
  testing::WriteTestFile(path_, "");
  EXPECT_THAT(Words(), HasSubstr("no zip archive"));
  testing::WriteTestFile(path_, "no archive");
  EXPECT_THAT(Words(), HasSubstr("no zip archive"));

  WriteZip(path_, {{"image.npy", images_of_3_}, {"imagX.npy", images_of_3_}, {"label.npy", labels}});
  std::string twice = testing::ReadTestFile(path_);
  for (size_t at; (at = twice.find("imagX")) != std::string::npos;) twice[at + 4] = 'e';
  testing::WriteTestFile(path_, twice);
  EXPECT_THAT(Words(), HasSubstr("array \"image\": there are two"));

  std::filesystem::remove(path_);
  EXPECT_TRUE(absl::IsNotFound(Append()));
  std::filesystem::create_directory(path_);
  EXPECT_TRUE(absl::IsNotFound(Append()));
}

// Every byte of a stored archive wrong, and every length: refused, or nothing of what was read is another.
TEST_F(NpzTest, DamageIsFound) {
  for (const bool compress : {false, true}) {
    WriteNpz(path_, images_of_3_, NpyLabels({0, 1, 2}), compress);
    const std::string whole = testing::ReadTestFile(path_);
    ASSERT_TRUE(Append().ok());
    const LabelledImages expected = images_;
    int refused = 0;
    for (size_t i = 0; i < whole.size(); ++i) {
      std::string damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ 0x11);
      testing::WriteTestFile(path_, damaged);
      const absl::Status status = Append();
      if (!status.ok()) {
        EXPECT_TRUE(absl::IsDataLoss(status)) << status;
        ++refused;
        continue;
      }
      EXPECT_EQ(images_.pixels, expected.pixels) << i;
      EXPECT_EQ(images_.labels, expected.labels) << i;
    }
    EXPECT_GT(refused, static_cast<int>(whole.size() / 3));
    for (size_t size = 0; size < whole.size(); ++size) {
      testing::WriteTestFile(path_, whole.substr(0, size));
      EXPECT_TRUE(absl::IsDataLoss(Append())) << size;
    }
  }
}

// The entry of the central directory that starts with the file's name, at its packed and unpacked sizes.
TEST_F(NpzTest, SizesThatTheFileCannotHoldTakeNoMemory) {
  const std::string huge = NpyOf("|u1", "9000000, 2, 2, 3", "");
  WriteNpz(path_, huge, NpyLabels({0}));
  std::string bytes = testing::ReadTestFile(path_);
  const size_t entry = bytes.find("PK\1\2");
  ASSERT_NE(entry, std::string::npos);
  const uint32_t claimed = static_cast<uint32_t>(huge.size()) + 108'000'000;
  for (const bool packed_too : {false, true}) {
    bytes.replace(entry + 24, 4, reinterpret_cast<const char*>(&claimed), 4);
    if (packed_too) bytes.replace(entry + 20, 4, reinterpret_cast<const char*>(&claimed), 4);
    testing::WriteTestFile(path_, bytes);
    EXPECT_THAT(Words(), ::testing::AnyOf(HasSubstr("which cannot be in a file"), HasSubstr("no zip archive")));
  }
}

class ExtraDataTest : public ::testing::Test {
 protected:
  ExtraDataTest() {
    WriteOld("cifar-100/train.bin", std::string({1, 5}) + std::string(3072, 'o'));
    WriteOld("cifar-100/test.bin", std::string({1, 6}) + std::string(3072, 't'));
    std::filesystem::create_directories(root_ / "cifar-100/extra");
  }
  void WriteOld(const std::string& name, const std::string& bytes) {
    testing::WriteTestFile(root_ / name, bytes);
    Age(name);
  }
  void Age(const std::string& name) {
    const auto now = std::filesystem::file_time_type::clock::now();
    std::filesystem::last_write_time(root_ / name, now - std::chrono::hours(1));
  }
  void WriteExtra(const std::string& name, const std::vector<int64_t>& labels) {
    const std::string file = absl::StrCat("cifar-100/extra/", name, ".npz");
    WriteNpz(root_ / file, NpyImages(static_cast<int64_t>(labels.size()), 32, 32, 3, 'a'), NpyLabels(labels), true);
    Age(file);
  }
  absl::StatusOr<ImageSet> Load(const std::string& extra) {
    return LoadDataSet(root_.path(), "cifar-100", Split::kTrain, {.cache_directory = root_ / "cache", .extra = extra});
  }

  testing::TemporaryDirectory root_;
};

TEST_F(ExtraDataTest, RowsComeBehindTheSetsOwnAndAreKeptPrepared) {
  WriteExtra("1m", {7, 8});
  for (int load = 0; load < 2; ++load) {
    const auto set = Load("1m");
    ASSERT_TRUE(set.ok()) << set.status();
    EXPECT_THAT(set->labels, ElementsAre(5, 7, 8));
    EXPECT_EQ(set->rows, 3);
    EXPECT_EQ(set->extra_rows, 2);
    EXPECT_EQ(set->own_rows(), 1);
    EXPECT_EQ(set->images[0], 'o');
    EXPECT_EQ(set->images[3072], 'a');
    EXPECT_EQ(set->images[3 * 3072 - 1], 'b');
    EXPECT_EQ(set->not_shared, "");
  }
  const auto plain = Load("");  // has its own prepared file
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->rows, 1);
  EXPECT_EQ(plain->extra_rows, 0);
  const auto files = std::filesystem::directory_iterator(root_ / "cache");
  EXPECT_EQ(std::distance(begin(files), end(files)), 2);
}

TEST_F(ExtraDataTest, AChangedFileIsReadAnew) {
  WriteExtra("a", {7, 8});
  ASSERT_TRUE(Load("a").ok());
  WriteExtra("a", {9});
  EXPECT_THAT(Load("a")->labels, ElementsAre(5, 9));
  WriteExtra("b", {10});
  EXPECT_THAT(Load("b")->labels, ElementsAre(5, 10));
  EXPECT_THAT(Load("a")->labels, ElementsAre(5, 9));
  WriteExtra("a", {100});
  EXPECT_THAT(std::string(Load("a").status().message()), HasSubstr("row 0 has label 100; allowed is 0 to 99"));
}

TEST_F(ExtraDataTest, SaysWhatThereIs) {
  EXPECT_THAT(std::string(Load("1m").status().message()), HasSubstr(root_ / "cifar-100/extra/1m.npz; there is none"));
  WriteExtra("b", {1});
  WriteExtra("a.2", {1});
  EXPECT_TRUE(absl::IsNotFound(Load("1m").status()));
  EXPECT_THAT(std::string(Load("1m").status().message()), HasSubstr("there is a.2, b"));
  EXPECT_TRUE(absl::IsInvalidArgument(Load("../extra/b").status()));
}

TEST_F(ExtraDataTest, IsInspectedWithItsDataSet) {
  WriteExtra("good", {1, 1, 2});
  WriteExtra("bad", {100});
  const auto report = InspectPath(root_ / "cifar-100");
  ASSERT_TRUE(report.ok()) << report.status();
  ASSERT_EQ(report->splits.size(), 4);
  EXPECT_EQ(report->splits[2].name, "extra bad");
  EXPECT_FALSE(report->splits[2].status.ok());
  EXPECT_EQ(report->splits[3].name, "extra good");
  EXPECT_EQ(report->splits[3].rows, 3);
  EXPECT_EQ(report->splits[3].class_rows[1], 2);
  EXPECT_THAT(ToText(*report), HasSubstr("extra good  3 rows  extra training data  sha256 "));
  EXPECT_THAT(ToJson(*report), HasSubstr("\"authenticity\":\"extra\""));
}

}  // namespace
}  // namespace ham::trainer

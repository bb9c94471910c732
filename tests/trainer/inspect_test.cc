#include "worker/trainer/data/inspect.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>
#include "absl/strings/str_cat.h"
#include "proto/sha256.h"
#include "tests/support/image_files.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/test_data.h"

namespace ham::trainer {
namespace {

using testing::TestData;
using testing::WriteTestFile;

std::string Record(const std::string& labels) { return labels + std::string(3072, 'x'); }

class InspectTest : public ::testing::Test {
 protected:
  // The only split of a report that must be of one, OK.
  SplitReport Only(const std::string& path, const std::string& name) {
    const auto report = InspectPath(path);
    EXPECT_TRUE(report.ok()) << report.status();
    if (!report.ok() || report->splits.size() != 1) return {};
    EXPECT_TRUE(report->splits[0].status.ok()) << report->splits[0].status;
    EXPECT_EQ(report->name, name);
    return report->splits[0];
  }
  testing::TemporaryDirectory root_;
};

TEST_F(InspectTest, SaysWhatADirectoryIsAndWhatIsWrongWithIt) {
  WriteTestFile(root_ / "cifar-100/train.bin", Record({1, 99}) + Record({0, 99}) + Record({2, 0}));
  WriteTestFile(root_ / "cifar-100/test.bin", Record({1, 100}));
  const auto report = InspectPath(root_ / "cifar-100/");
  ASSERT_TRUE(report.ok()) << report.status();
  const std::string text = ToText(*report);
  EXPECT_NE(text.find("cifar-100  CIFAR-100 binary, fine labels  3 x 32 x 32, 100 classes"), std::string::npos) << text;
  EXPECT_NE(text.find("train  3 rows  not the official file  sha256 "), std::string::npos) << text;
  EXPECT_NE(text.find("worm 2"), std::string::npos) << text;
  EXPECT_NE(text.find("test  unusable: " + root_ / "cifar-100/test.bin: the label at offset 1 is 100"),
            std::string::npos)
      << text;
  const auto json = nlohmann::json::parse(ToJson(*report));
  EXPECT_EQ(json["splits"][0]["class_rows"]["worm"], 2);
  EXPECT_EQ(json["splits"][0]["rows"], 3);
  EXPECT_EQ(json["splits"][0]["authenticity"], "not_official");
  EXPECT_EQ(json["splits"][0]["digest"], Sha256Hex(Record({1, 99}) + Record({0, 99}) + Record({2, 0})));
  EXPECT_TRUE(json["splits"][1].contains("error"));
}

TEST_F(InspectTest, RecognisesADirectoryByItsFiles) {
  for (int i = 1; i <= 5; ++i) WriteTestFile(root_ / absl::StrCat("mine/data_batch_", i, ".bin"), Record({3}));
  const auto report = InspectPath(root_ / "mine");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->name, "cifar-10");
  EXPECT_EQ(report->splits[0].rows, 5);
  EXPECT_TRUE(absl::IsNotFound(report->splits[1].status));
}

TEST_F(InspectTest, RecognisesFiles) {
  WriteTestFile(root_ / "some.bin", Record({3}) + Record({4}));
  EXPECT_EQ(Only(root_ / "some.bin", "cifar-10").rows, 2);
  WriteTestFile(root_ / "fine.bin", Record({3, 4}));
  EXPECT_EQ(Only(root_ / "fine.bin", "cifar-100").class_rows[4], 1);
  testing::WriteMat5(root_ / "digits.mat", {10, 2, 2});
  EXPECT_EQ(Only(root_ / "digits.mat", "svhn").class_rows[2], 2);
  WriteTestFile(root_ / "labels", std::string("\0\0\x08\x01\0\0\0\x03\x01\x09\x01", 11));
  EXPECT_EQ(Only(root_ / "labels", "mnist or fashion-mnist").class_rows[1], 2);
  WriteTestFile(root_ / "images",
                std::string("\0\0\x08\x03\0\0\0\x01\0\0\0\x1c\0\0\0\x1c", 16) + std::string(784, 'x'));
  EXPECT_EQ(Only(root_ / "images", "mnist or fashion-mnist").rows, 1);
  WriteTestFile(root_ / "picture", testing::Jpeg(testing::Ramp(40, 50), 40, 50, 3));
  EXPECT_EQ(Only(root_ / "picture", "imagenette").rows, 1);
  EXPECT_EQ(InspectPath(root_ / "picture")->height, 50);
}

TEST_F(InspectTest, SaysWhatIsWrongWithAFile) {
  const auto words = [this](const std::string& name) {
    const auto report = InspectPath(root_ / name);
    return std::string(report.ok() ? report->splits[0].status.message() : report.status().message());
  };
  WriteTestFile(root_ / "labels", std::string("\0\0\x08\x01\0\0\0\x03\x01\x0a\x01", 11));
  EXPECT_NE(words("labels").find("label at offset 9 is 10"), std::string::npos) << words("labels");
  WriteTestFile(root_ / "cut", std::string("\0\0\x08\x01\0\0\0\x03\x01", 9));
  EXPECT_NE(words("cut").find("is cut: 1 of 3"), std::string::npos) << words("cut");
  WriteTestFile(root_ / "data_batch_2.bin", Record({3}).substr(1));
  EXPECT_NE(words("data_batch_2.bin").find("offset 0 is cut"), std::string::npos) << words("data_batch_2.bin");
  WriteTestFile(root_ / "picture", testing::Jpeg(testing::Ramp(40, 50), 40, 50, 3).substr(0, 400));
  EXPECT_NE(words("picture").find(root_ / "picture"), std::string::npos) << words("picture");
  WriteTestFile(root_ / "other", "nothing known");
  EXPECT_TRUE(absl::IsInvalidArgument(InspectPath(root_ / "other").status()));
  std::filesystem::create_directories(root_ / "empty");
  EXPECT_TRUE(absl::IsInvalidArgument(InspectPath(root_ / "empty").status()));
  EXPECT_TRUE(absl::IsNotFound(InspectPath(root_ / "nowhere").status()));
}

TEST_F(InspectTest, ListsWhatIsKnown) {
  const auto json = nlohmann::json::parse(KnownDataSetsAsJson());
  EXPECT_EQ(json.size(), KnownDataSets().size());
  for (size_t i = 0; i < json.size(); ++i) {
    const KnownDataSet& set = KnownDataSets()[i];
    EXPECT_EQ(json[i]["name"], set.name);
    EXPECT_NE(KnownDataSetsAsText().find("\n" + set.name), std::string::npos);
    EXPECT_EQ(set.class_names.size(), set.train.class_rows.size()) << set.name;
    EXPECT_EQ(set.class_names.size(), set.test.class_rows.size()) << set.name;
    EXPECT_NE(DownloadsAsText(set).find("://"), std::string::npos) << set.name;
  }
  EXPECT_EQ(json[2]["train_rows"], 50000);
  EXPECT_EQ(json[4]["test_rows"], 26032);
}

TEST_F(InspectTest, KnowsDebiansFashionMnistForTheOfficialOne) {
  constexpr char kPath[] = "/usr/share/datasets/fashion-mnist";
  if (!std::filesystem::exists(kPath)) GTEST_SKIP() << "Debian's dataset-fashion-mnist is not installed";
  std::filesystem::create_directory_symlink(kPath, root_ / "named-otherwise");
  const auto report = InspectPath(root_ / "named-otherwise");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->name, "fashion-mnist");
  for (const SplitReport& split : report->splits) {
    EXPECT_TRUE(split.status.ok()) << split.status;
    EXPECT_EQ(split.authenticity, Authenticity::kOfficial);
  }
}

TEST_F(InspectTest, KnowsOfficialFiles) {
  const std::string mnist = TestData("mnist-test"), cifar = TestData("cifar-10-batches-bin");
  if (mnist.empty() || cifar.empty()) {
    GTEST_SKIP() << "HAM_TEST_DATA names no folder with mnist-test and cifar-10-batches-bin";
  }
  const SplitReport labels = Only(mnist + "/t10k-labels-idx1-ubyte.gz", "mnist");
  EXPECT_EQ(labels.authenticity, Authenticity::kOfficial);
  EXPECT_EQ(labels.class_rows, FindDataSet("mnist")->test.class_rows);
  const std::string batch = root_ / "data_batch_4.bin";
  ASSERT_EQ(std::system(absl::StrCat("xz -dkc ", cifar, "/data_batch_4.bin.xz >", batch).c_str()), 0);
  EXPECT_EQ(Only(batch, "cifar-10").authenticity, Authenticity::kOfficial);
}

}  // namespace
}  // namespace ham::trainer

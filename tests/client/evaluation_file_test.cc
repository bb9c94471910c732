#include "client/evaluation_file.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "proto/strict_json.h"
#include "tests/support/made_record.h"
#include "tests/support/temporary_directory.h"

namespace ham::client {
namespace {

TEST(ReadEvaluationTest, ErrorsNameTheFile) {
  const testing::TemporaryDirectory directory;
  const std::string path = directory / "record.json";
  const auto message = [&](const std::optional<std::string>& signed_by = std::nullopt) {
    return std::string(ReadEvaluation(path, signed_by).status().message());
  };
  EXPECT_TRUE(absl::IsNotFound(ReadEvaluation(path, std::nullopt).status()));
  EXPECT_TRUE(absl::StrContains(message(), path));
  const std::string unsigned_file = UnsignedRecordFile(testing::MadeRecord());
  testing::WriteTestFile(path, unsigned_file.substr(0, 100));
  EXPECT_TRUE(absl::StrContains(message(), path + ": the record file is cut off")) << message();
  testing::WriteTestFile(path, unsigned_file);
  EXPECT_TRUE(ReadEvaluation(path, std::nullopt).ok());
  EXPECT_TRUE(absl::StrContains(message(""), path + ": the record is unsigned"));
  const SigningKey key = SigningKey::LoadOrCreate(directory / "key.pem").value();
  testing::WriteTestFile(path, SignRecordFile(unsigned_file, key).value());
  EXPECT_TRUE(ReadEvaluation(path, Base64Encode(key.public_key())).ok());
  EXPECT_TRUE(absl::StrContains(message("another"), "not with another"));
  EXPECT_TRUE(absl::IsFailedPrecondition(ReadEvaluation(path, "another").status()));
  EXPECT_TRUE(absl::IsDataLoss(ReadEvaluation("/dev/zero", std::nullopt).status()));
}

}  // namespace
}  // namespace ham::client

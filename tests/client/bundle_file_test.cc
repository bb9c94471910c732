#include "client/bundle_file.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/temporary_directory.h"

namespace ham::client {
namespace {

TEST(WithoutSecrets, TakesOutWhatIsSecretAndNothingElse) {
  const std::string key = "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----";
  for (const auto& [text, expected] : std::vector<std::pair<std::string, std::string>>{
           {"nothing of that kind", "nothing of that kind"},
           {"a s3cret b s3cret", "a [removed] b [removed]"},
           {"authorization: Bearer abc.def-_=\nnext", "authorization: Bearer [removed]\nnext"},
           {"{\"authorization\": \"bearer xyz\", \"n\": 1}", "{\"authorization\": \"bearer [removed]\", \"n\": 1}"},
           {"{\"token\": \"xyz\", \"n\": 1}", "{\"token\": \"[removed]\", \"n\": 1}"},
           {R"({\"token\":\"xyz\"})", R"({\"token\":\"[removed]\"})"},
           {"a\n" + key + "\nb" + key, "a\n[removed]\nb[removed]"},
           {"-----BEGIN EC PRIVATE KEY-----\nMC4C", "[removed]"},
           {"-----BEGIN CERTIFICATE-----\nMC4C", "-----BEGIN CERTIFICATE-----\nMC4C"},
           {"Bearer ", "Bearer [removed]"},
           {"", ""}}) {
    EXPECT_EQ(WithoutSecrets(text, {"s3cret", ""}), expected);
  }
}

TEST(WithoutSecrets, IsQuickForALongText) {
  std::string text;
  for (int i = 0; i < 200000; ++i) text += "Bearer a\n\"token\": \"b\"\n";
  EXPECT_EQ(WithoutSecrets(text, {"c"}).find("Bearer a"), std::string::npos);
}

TEST(WriteBundle, LeavesAFileThatExistsAsItIs) {
  const ham::testing::TemporaryDirectory folder;
  const std::string path = folder / "bundle.zip";
  ham::testing::WriteTestFile(path, "mine");
  EXPECT_TRUE(absl::IsInvalidArgument(WriteBundle(path, {{"a", "b"}})));
  EXPECT_EQ(ham::testing::ReadTestFile(path), "mine");
}

TEST(WriteBundle, LeavesNothingBehindWhereItFails) {
  const ham::testing::TemporaryDirectory folder;
  const std::string path = folder / "bundle.zip";
  const absl::Status status = WriteBundle(path, {{"a", "b"}, {"a", "the same name again"}});
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace ham::client

#include "proto/evaluation/signing_key.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "absl/strings/escaping.h"
#include "tests/support/temporary_directory.h"

namespace ham {
namespace {

mode_t ModeOf(const std::string& path) {
  struct stat info {};
  EXPECT_EQ(::stat(path.c_str(), &info), 0);
  return info.st_mode & 0777;
}

TEST(SigningKeyTest, ANewKeyIsPrivateAndStays) {
  const testing::TemporaryDirectory directory;
  const std::string path = directory / "key.pem";
  const absl::StatusOr<SigningKey> made = SigningKey::LoadOrCreate(path);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(ModeOf(path), 0600u);
  const absl::StatusOr<SigningKey> loaded = SigningKey::LoadOrCreate(path);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->public_key(), made->public_key());
  EXPECT_EQ(loaded->Sign("text"), made->Sign("text"));
  EXPECT_NE(SigningKey::LoadOrCreate(directory / "other.pem")->public_key(), made->public_key());
}

// Test 2 of RFC 8032, section 7.1.
TEST(SigningKeyTest, SignsAsTheStandardSays) {
  const testing::TemporaryDirectory directory;
  const std::string path = directory / "key.pem";
  const std::string secret = absl::HexStringToBytes("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
  const std::string pkcs8 = absl::HexStringToBytes("302e020100300506032b657004220420") + secret;
  testing::WriteTestFile(path,
                         "-----BEGIN PRIVATE KEY-----\n" + absl::Base64Escape(pkcs8) + "\n-----END PRIVATE KEY-----\n");
  ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
  const absl::StatusOr<SigningKey> key = SigningKey::LoadOrCreate(path);
  ASSERT_TRUE(key.ok()) << key.status();
  EXPECT_EQ(absl::BytesToHexString(key->public_key()),
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
  EXPECT_EQ(absl::BytesToHexString(key->Sign("\x72")),
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4"
            "302aeeb00d291612bb0c00");
}

TEST(SigningKeyTest, OnlyItsOwnSignatureFits) {
  const testing::TemporaryDirectory directory;
  const SigningKey key = SigningKey::LoadOrCreate(directory / "key.pem").value();
  const SigningKey other = SigningKey::LoadOrCreate(directory / "other.pem").value();
  const std::string signature = key.Sign("text");
  EXPECT_TRUE(IsSignature(key.public_key(), "text", signature));
  EXPECT_FALSE(IsSignature(key.public_key(), "texT", signature));
  EXPECT_FALSE(IsSignature(other.public_key(), "text", signature));
  EXPECT_FALSE(IsSignature(key.public_key(), "text", other.Sign("text")));
  EXPECT_FALSE(IsSignature("", "text", signature));
  EXPECT_FALSE(IsSignature(key.public_key(), "text", ""));
  EXPECT_FALSE(IsSignature(key.public_key(), "text", signature.substr(1)));
}

TEST(SigningKeyTest, RefusesFilesThatAreNoPrivateKey) {
  const testing::TemporaryDirectory directory;
  const std::string path = directory / "key.pem";
  ASSERT_TRUE(SigningKey::LoadOrCreate(path).ok());
  const std::string pem = testing::ReadTestFile(path);
  ASSERT_EQ(::chmod(path.c_str(), 0640), 0);
  const absl::Status open = SigningKey::LoadOrCreate(path).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(open));
  EXPECT_NE(open.message().find("chmod 600"), std::string::npos);
  ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
  for (const std::string& text : {std::string(), std::string("-----BEGIN"), pem.substr(0, pem.size() / 2)}) {
    testing::WriteTestFile(path, text);
    EXPECT_TRUE(absl::IsDataLoss(SigningKey::LoadOrCreate(path).status()));
  }
  EXPECT_TRUE(absl::IsUnavailable(SigningKey::LoadOrCreate(directory / "missing/key.pem").status()));
  EXPECT_FALSE(SigningKey::LoadOrCreate(directory.path()).ok());
}

}  // namespace
}  // namespace ham

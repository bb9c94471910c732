#include "worker/agent/worker_id.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>
#include <string>

#include "tests/support/temporary_directory.h"

namespace ham::agent {
namespace {

namespace fs = std::filesystem;
using ham::testing::ReadTestFile;
using ham::testing::TemporaryDirectory;
using ham::testing::WriteTestFile;

TEST(StateDirectory, KeepsItsId) {
  const TemporaryDirectory folder;
  std::string id;
  {
    const auto directory = StateDirectory::Open(folder / "a/b");
    ASSERT_TRUE(directory.ok()) << directory.status();
    id = (*directory)->worker_id();
    EXPECT_EQ(id.size(), 32);
    EXPECT_EQ((*directory)->path(), folder / "a/b");
  }
  EXPECT_EQ(ReadTestFile(folder / "a/b/worker_id"), id + "\n");
  const auto again = StateDirectory::Open(folder / "a/b");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->worker_id(), id);
}

TEST(StateDirectory, CountsTheProcessesThatHadIt) {
  const TemporaryDirectory folder;
  for (int64_t number = 1; number <= 3; ++number) {
    const auto directory = StateDirectory::Open(folder.path());
    ASSERT_TRUE(directory.ok()) << directory.status();
    const absl::StatusOr<int64_t> counted = (*directory)->CountIncarnation();
    ASSERT_TRUE(counted.ok()) << counted.status();
    EXPECT_EQ(*counted, number);
    EXPECT_EQ(ReadTestFile(folder / "incarnation"), std::to_string(number) + "\n");
  }
  const auto directory = StateDirectory::Open(folder.path());
  for (const char* damaged : {"", "-1", "0", "three", "4 5", "99999999999999999999", "4611686018427387904"}) {
    WriteTestFile(folder / "incarnation", damaged);
    const absl::Status status = (*directory)->CountIncarnation().status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << damaged << status;
    EXPECT_NE(status.message().find("delete it and"), std::string::npos) << status;
    EXPECT_EQ(ReadTestFile(folder / "incarnation"), damaged);
  }
}

TEST(StateDirectory, IsForItsOwnerOnlyWhenItIsMadeHere) {
  const TemporaryDirectory folder;
  ASSERT_TRUE(StateDirectory::Open(folder / "made").ok());
  EXPECT_EQ(fs::status(folder / "made").permissions(), fs::perms::owner_all);
  // A directory that was there may be shared: its permissions are its owner's business.
  fs::create_directory(folder / "given");
  fs::permissions(folder / "given", fs::perms(0755));
  ASSERT_TRUE(StateDirectory::Open(folder / "given").ok());
  EXPECT_EQ(fs::status(folder / "given").permissions(), fs::perms(0755));
  EXPECT_EQ(fs::status(folder / "given/worker_id").permissions(), fs::perms(0600));
}

TEST(StateDirectory, BelongsToOneAgent) {
  const TemporaryDirectory folder;
  auto first = StateDirectory::Open(folder.path());
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = StateDirectory::Open(folder.path());
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status())) << second.status();
  EXPECT_NE(second.status().message().find(folder.path()), std::string::npos) << second.status();
  first->reset();
  EXPECT_TRUE(StateDirectory::Open(folder.path()).ok());
}

TEST(StateDirectory, ADamagedIdIsNotReplacedUnasked) {
  for (const std::string& text :
       {std::string(), std::string("abc\n"), std::string(32, 'g'), std::string(33, 'a'), std::string(31, 'a') + '\0'}) {
    const TemporaryDirectory folder;
    WriteTestFile(folder / "worker_id", text);
    const auto directory = StateDirectory::Open(folder.path());
    EXPECT_TRUE(absl::IsDataLoss(directory.status())) << directory.status();
    EXPECT_EQ(ReadTestFile(folder / "worker_id"), text);
  }
}

TEST(StateDirectory, NamesWhatCannotBeMade) {
  const TemporaryDirectory folder;
  WriteTestFile(folder / "file", "");
  for (const std::string& path : {folder / "file", folder / "file/below"}) {
    const auto directory = StateDirectory::Open(path);
    EXPECT_TRUE(absl::IsUnavailable(directory.status())) << directory.status();
    EXPECT_NE(directory.status().message().find(path), std::string::npos) << directory.status();
  }
}

TEST(RandomId, DiffersEachTime) {
  std::set<std::string> ids;
  for (int i = 0; i < 100; ++i) ids.insert(RandomId());
  EXPECT_EQ(ids.size(), 100);
}

}  // namespace
}  // namespace ham::agent

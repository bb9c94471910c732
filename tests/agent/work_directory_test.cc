#include "worker/agent/work_directory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "tests/support/temporary_directory.h"

namespace ham::agent {
namespace {

namespace fs = std::filesystem;
using ham::testing::TemporaryDirectory;
using ham::testing::WriteTestFile;

TEST(WorkDirectory, IsMadeOfJobAttemptAndRank) {
  EXPECT_EQ(WorkDirectory("/s", "projects/default/jobs/j-1", 2, 3), "/s/work/j-1/2/3");
}

TEST(WorkDirectory, TakesNoNameThatIsNone) {
  for (const char* job : {"", "j", "jobs/j", "projects/p/jobs/", "projects/p/jobs/..", "projects/p/jobs/a/b",
                          "projects/p/jobs/A", "projects/p/jobs/a b", "/projects/p/jobs/j", "projects/p/jobs/.a"}) {
    EXPECT_EQ(WorkDirectory("/s", job, 1, 0), "") << job;
  }
  EXPECT_EQ(WorkDirectory("/s", "projects/p/jobs/" + std::string(64, 'a'), 1, 0), "");
  EXPECT_EQ(WorkDirectory("/s", std::string("projects/p/jobs/a\0b", 19), 1, 0), "");
  EXPECT_EQ(WorkDirectory("/s", "projects/p/jobs/j", -1, 0), "");
  EXPECT_EQ(WorkDirectory("/s", "projects/p/jobs/j", 1, -1), "");
}

TEST(WorkDirectory, IsMadeEmptyAndGoesWithWhatBecameEmptyAboveIt) {
  const TemporaryDirectory folder;
  const std::string first = WorkDirectory(folder.path(), "projects/p/jobs/j", 1, 0);
  const std::string second = WorkDirectory(folder.path(), "projects/p/jobs/j", 1, 1);
  WriteTestFile(first + "/left/over", "x");
  ASSERT_TRUE(MakeWorkDirectory(first).ok());
  ASSERT_TRUE(MakeWorkDirectory(second).ok());
  EXPECT_TRUE(fs::is_empty(first));
  WriteTestFile(first + "/resume/weights", "x");
  RemoveWorkDirectory(first);
  EXPECT_FALSE(fs::exists(first));
  EXPECT_TRUE(fs::exists(second));
  RemoveWorkDirectory(second);
  EXPECT_TRUE(fs::is_empty(folder / "work"));
}

TEST(WorkDirectory, SaysWhatCannotBeMade) {
  const TemporaryDirectory folder;
  WriteTestFile(folder / "work", "a file");
  const absl::Status status = MakeWorkDirectory(folder / "work/j/1/0");
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_NE(status.message().find("work/j/1/0"), std::string::npos) << status;
}

TEST(WorkDirectory, ClearsAllWorkAndNothingElse) {
  const TemporaryDirectory folder;
  EXPECT_TRUE(RemoveAllWork(folder.path()).ok());  // there is none
  WriteTestFile(folder / "work/j/1/0/spool/1", "x");
  WriteTestFile(folder / "worker_id", "x");
  EXPECT_TRUE(RemoveAllWork(folder.path()).ok());
  EXPECT_FALSE(fs::exists(folder / "work"));
  EXPECT_TRUE(fs::exists(folder / "worker_id"));
}

}  // namespace
}  // namespace ham::agent

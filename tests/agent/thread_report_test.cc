#include "worker/agent/thread_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/support/temporary_directory.h"

namespace ham::agent {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ThreadReportTest : public ::testing::Test {
 protected:
  // Of this process, with a program of this script in the place of eu-stack.
  std::string Report(const std::string& script, absl::Duration timeout = absl::Seconds(20)) {
    const std::string program = directory_ / "stacks";
    ham::testing::WriteTestFile(program, "#!/bin/sh\n" + script);
    std::filesystem::permissions(program, std::filesystem::perms::owner_all);
    return ThreadReport(::getpid(), {program, timeout});
  }

  const ham::testing::TemporaryDirectory directory_;
};

TEST(ThreadsText, HasALineAThread) {
  EXPECT_EQ(ThreadsText({}), "");
  EXPECT_EQ(
      ThreadsText({{12, {"ham trainer", 'S', 1.5}, "futex_wait_queue", "202 0x7f"}, {13, {"gloo", 'R', 0}, "", ""}}),
      "thread 12 (ham trainer): state S, 1.5 s of CPU time, waits in futex_wait_queue, system call 202 0x7f\n"
      "thread 13 (gloo): state R, 0 s of CPU time\n");
}

TEST_F(ThreadReportTest, HoldsThreadsAndStacks) {
  const std::string report = Report("echo stacks of $1 $2");
  EXPECT_THAT(report, HasSubstr(absl::StrCat("thread ", ::getpid(), " (")));
  EXPECT_THAT(report, HasSubstr(absl::StrCat("\nstacks of -p ", ::getpid(), "\n")));
}

TEST_F(ThreadReportTest, SaysWhyThereAreNoStacks) {
  EXPECT_THAT(Report("echo not permitted >&2; exit 1"), HasSubstr("no stacks: "));
  EXPECT_THAT(Report("echo not permitted >&2; exit 1"), HasSubstr("not permitted\n"));
  const absl::Time begin = absl::Now();
  EXPECT_THAT(Report("exec sleep 600", absl::Milliseconds(100)), HasSubstr("did not end within 100ms"));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(20));
}

TEST_F(ThreadReportTest, AMissingProgramIsNoneOfTheUsersBusiness) {
  const std::string report = ThreadReport(::getpid(), {.program = directory_ / "none"});
  EXPECT_THAT(report, HasSubstr("thread "));
  EXPECT_THAT(report, Not(HasSubstr("none")));
}

}  // namespace
}  // namespace ham::agent

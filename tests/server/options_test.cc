#include "server/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ham::server {
namespace {

using ::testing::HasSubstr;

TEST(CheckOptions, AllowsInsecureOnLoopbackAlone) {
  ServerOptions options;
  options.insecure = true;
  options.advertise = {"localhost", "127.0.0.1", "::1"};
  EXPECT_TRUE(CheckOptions(options).ok()) << CheckOptions(options);
  options.advertise.push_back("gpu.example");  // its bootstrap file would be refused at the next start
  EXPECT_THAT(std::string(CheckOptions(options).message()), HasSubstr("--advertise is gpu.example"));
  options.insecure = false;
  EXPECT_TRUE(CheckOptions(options).ok());
  options.insecure = true;
  options.advertise.clear();
  options.listen = "0.0.0.0:7480";
  EXPECT_TRUE(absl::IsInvalidArgument(CheckOptions(options)));
}

TEST(CheckOptions, BoundsTheHangBound) {
  ServerOptions options;
  options.hang_bound = absl::Milliseconds(999);
  EXPECT_THAT(std::string(CheckOptions(options).message()), HasSubstr("--hang-bound 999ms is out of range"));
  options.hang_bound = absl::Hours(1);
  EXPECT_TRUE(CheckOptions(options).ok());
}

CommandLine Parse(std::vector<const char*> words) {
  words.insert(words.begin(), "ham-coordinator");
  return ParseCommandLine(static_cast<int>(words.size()), words.data());
}

TEST(ParseCommandLine, TellsWhatIsToBeDoneToAStateDirectory) {
  EXPECT_EQ(Parse({"--state-dir", "s"}).command, Command::kServe);
  const CommandLine backup = Parse({"backup", "--state-dir", "s", "b"});
  EXPECT_EQ(backup.command, Command::kBackup);
  EXPECT_EQ(backup.options.state_dir, "s");
  EXPECT_EQ(backup.backup, "b");
  const CommandLine restore = Parse({"restore", "--from", "b", "--state-dir", "s"});
  EXPECT_EQ(restore.command, Command::kRestore);
  EXPECT_EQ(restore.options.state_dir, "s");
  EXPECT_EQ(restore.backup, "b");
  EXPECT_EQ(Parse({"check", "--state-dir", "s"}).command, Command::kCheck);
  EXPECT_EQ(Parse({"reset-admin", "--state-dir", "s"}).command, Command::kResetAdmin);
  for (const std::vector<const char*>& wrong : {std::vector<const char*>{"backup", "b"},
                                                {"backup", "--state-dir", "s"},
                                                {"restore", "--state-dir", "s"},
                                                {"check"},
                                                {"--state-dir", "s", "--keep-checkpoints", "0"},
                                                {"--state-dir", "s", "--artifact-quota", "-1"}}) {
    EXPECT_EQ(Parse(wrong).command, Command::kExit);
    EXPECT_EQ(Parse(wrong).exit_code, 2);
  }
}

TEST(ParseCommandLine, ReadsSizesWithUnits) {
  const ServerOptions options = Parse({"--state-dir", "s", "--artifact-quota", "50GiB"}).options;
  EXPECT_EQ(options.artifact_quota, int64_t{50} << 30);
  EXPECT_EQ(Parse({"--state-dir", "s", "--artifact-quota", "500MB"}).options.artifact_quota, 500000000);
  EXPECT_EQ(Parse({"--state-dir", "s", "--artifact-quota", "7"}).options.artifact_quota, 7);
}

}  // namespace
}  // namespace ham::server

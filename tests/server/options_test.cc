#include "server/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/support/temporary_directory.h"

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

// A file of options, and what is said about it.
struct Configured {
  CommandLine line;
  std::string said;
};

Configured ParseFile(const std::string& text, std::vector<const char*> more = {}) {
  const ham::testing::TemporaryDirectory folder;
  const std::string file = folder / "coordinator.conf";
  ham::testing::WriteTestFile(file, text);
  more.insert(more.begin(), {"--config", file.c_str()});
  ::testing::internal::CaptureStderr();
  CommandLine line = Parse(more);
  return {line, ::testing::internal::GetCapturedStderr()};
}

TEST(ParseCommandLine, ReadsAFileOfOptions) {
  const std::string text =
      "# ours\nstate-dir = \"/var/lib/ham\"\nlease = 30s\nadvertise = [\"a\", \"b\"]\nlog-format = json\n";
  const Configured file = ParseFile(text);
  ASSERT_EQ(file.line.command, Command::kServe) << file.said;
  EXPECT_EQ(file.line.options.state_dir, "/var/lib/ham");
  EXPECT_EQ(file.line.options.lease, absl::Seconds(30));
  EXPECT_THAT(file.line.options.advertise, ::testing::ElementsAre("a", "b"));
  EXPECT_EQ(file.line.options.log_format, LogFormat::kJson);
  EXPECT_EQ(ParseFile(text, {"--lease", "5s"}).line.options.lease, absl::Seconds(5));
}

TEST(ParseCommandLine, SaysWhatIsWrongWithAFileOfOptions) {
  for (const auto& [text, part] : std::vector<std::pair<std::string, std::string>>{
           {"state-dir = s\nleese = 30s\n", "has the unknown option \"leese\""},
           {"state-dir = s\n[server]\nlease = 30s\n", "has the unknown option \"server\""},
           {"state-dir = s\nlease = 30\n", "\"30\" is no duration"},
           {"state-dir = s\nlease = 2h\n", "--lease 2h is out of range"},
           {"state-dir = s\nartifact-quota = 5 parsecs\n", "--artifact-quota"},
           {"state-dir = s\nlog-format = xml\n", "\"xml\" must be text or json"},
           {"lease = 30s\n", "--state-dir"}}) {
    const Configured file = ParseFile(text);
    EXPECT_EQ(file.line.command, Command::kExit) << text;
    EXPECT_EQ(file.line.exit_code, 2) << text;
    EXPECT_THAT(file.said, HasSubstr(part));
  }
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(Parse({"--config", "/nowhere/coordinator.conf"}).exit_code, 2);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("/nowhere/coordinator.conf"));
}

}  // namespace
}  // namespace ham::server

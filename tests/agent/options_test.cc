#include "worker/agent/options.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/temporary_directory.h"

namespace ham::agent {
namespace {

CommandLine Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "ham-worker");
  return ParseCommandLine(static_cast<int>(arguments.size()), arguments.data());
}

TEST(Options, FillsInWhatIsNotGiven) {
  const CommandLine line = Parse({"--join", "j", "--state-dir", "s"});
  ASSERT_EQ(line.command, Command::kServe);
  EXPECT_EQ(line.options.join, "j");
  EXPECT_EQ(line.options.state_dir, "s");
  EXPECT_EQ(line.options.slots, -1);
  EXPECT_FALSE(line.options.name.empty());
  EXPECT_FALSE(line.options.no_gpu || line.options.allow_shared_gpus);
  EXPECT_FALSE(line.options.no_pinning);
  EXPECT_EQ(line.options.give_up_after, absl::InfiniteDuration());
  const auto here = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  EXPECT_EQ(line.options.trainer, (here / "ham-trainer").string());
}

TEST(Options, TakesAllFlags) {
  const CommandLine line = Parse({"--join", "j", "--state-dir", "s", "--name", "n-1", "--slots", "0", "--data-root",
                                  "/d", "--trainer", "t", "--data-interface", "eth1", "--no-gpu", "--allow-shared-gpus",
                                  "--no-pinning", "--give-up-after", "1m30s"});
  ASSERT_EQ(line.command, Command::kServe);
  EXPECT_EQ(line.options.name, "n-1");
  EXPECT_EQ(line.options.slots, 0);
  EXPECT_EQ(line.options.data_root, "/d");
  EXPECT_EQ(line.options.trainer, "t");
  EXPECT_EQ(line.options.data_interface, "eth1");
  EXPECT_TRUE(line.options.no_gpu && line.options.allow_shared_gpus);
  EXPECT_TRUE(line.options.no_pinning);
  EXPECT_EQ(line.options.give_up_after, absl::Seconds(90));
}

TEST(Options, RefusesWhatItCannotUseWithStatusTwo) {
  const std::string long_name(64, 'a');
  for (const std::vector<const char*>& more : std::vector<std::vector<const char*>>{{"--slots", "-1"},
                                                                                    {"--slots", "1025"},
                                                                                    {"--slots", "many"},
                                                                                    {"--give-up-after", "soon"},
                                                                                    {"--give-up-after", "-1m"},
                                                                                    {"--give-up-after", "10"},
                                                                                    {"--name", "UPPER"},
                                                                                    {"--name", "-a"},
                                                                                    {"--name", "a-"},
                                                                                    {"--name", "a.b"},
                                                                                    {"--name", long_name.c_str()},
                                                                                    {"--unknown"},
                                                                                    {"stray"}}) {
    std::vector<const char*> arguments = {"--join", "j", "--state-dir", "s"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const CommandLine line = Parse(arguments);
    EXPECT_EQ(line.command, Command::kExit) << more[0];
    EXPECT_EQ(line.exit_code, 2) << more[0];
  }
  EXPECT_EQ(Parse({"--join", "j"}).exit_code, 2);
  EXPECT_EQ(Parse({"--state-dir", "s"}).exit_code, 2);
}

TEST(Options, ReadsAFile) {
  const ham::testing::TemporaryDirectory folder;
  const std::string file = folder / "worker.conf";
  ham::testing::WriteTestFile(file, "join = j\nstate-dir = s\nslots = 3\nno-gpu = true\nlog-format = json\n");
  const CommandLine line = Parse({"--config", file.c_str()});
  ASSERT_EQ(line.command, Command::kServe);
  EXPECT_EQ(line.options.join, "j");
  EXPECT_EQ(line.options.slots, 3);
  EXPECT_TRUE(line.options.no_gpu);
  EXPECT_EQ(line.options.log_format, LogFormat::kJson);
  ham::testing::WriteTestFile(file, "join = j\nstate-dir = s\nslotz = 3\n");
  EXPECT_EQ(Parse({"--config", file.c_str()}).exit_code, 2);
}

TEST(Options, HelpAndVersionAreNoErrors) {
  for (const char* flag : {"--help", "--version"}) {
    const CommandLine line = Parse({flag});
    EXPECT_EQ(line.command, Command::kExit);
    EXPECT_EQ(line.exit_code, 0) << flag;
  }
}

TEST(Options, MakesANameOfAHost) {
  EXPECT_EQ(WorkerNameFrom("Node_7.example.org"), "node-7");
  EXPECT_EQ(WorkerNameFrom("gpu--3"), "gpu--3");
  EXPECT_EQ(WorkerNameFrom("_edge_"), "edge");
  EXPECT_EQ(WorkerNameFrom("h\xC3\xB6st"), "h--st");
  EXPECT_EQ(WorkerNameFrom(""), "");
  EXPECT_EQ(WorkerNameFrom("..."), "");
  EXPECT_EQ(WorkerNameFrom("___"), "");
  EXPECT_EQ(WorkerNameFrom(std::string(70, 'a')), std::string(63, 'a'));
  EXPECT_EQ(WorkerNameFrom(std::string(62, 'a') + "_b"), std::string(62, 'a'));
}

}  // namespace
}  // namespace ham::agent

#include "worker/agent/inventory.h"

#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <memory>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/version.h"
#include "tests/support/temporary_directory.h"

namespace ham::agent {
namespace {

using ham::testing::TemporaryDirectory;

// What is logged while it lives.
class CapturedLog {
 public:
  CapturedLog() : before_(spdlog::default_logger()) {
    spdlog::set_default_logger(
        std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(text_)));
  }
  ~CapturedLog() { spdlog::set_default_logger(before_); }
  std::string text() const { return text_.str(); }

 private:
  std::ostringstream text_;
  const std::shared_ptr<spdlog::logger> before_;
};

// A program in a folder of its own.
class Program {
 public:
  explicit Program(const std::string& script, const std::string& name = "trainer") : name_(name) {
    ham::testing::WriteTestFile(path(), "#!/bin/sh\n" + script + "\n");
    EXPECT_EQ(::chmod(path().c_str(), 0700), 0);
  }
  std::string path() const { return folder_ / name_; }

 private:
  const std::string name_;
  const TemporaryDirectory folder_;
};

std::string VersionJson() { return absl::StrCat(R"({"version":"1","build_id":")", BuildId(), "\"}"); }

TEST(Inventory, TakesATrainerOfItsBuildOnly) {
  EXPECT_TRUE(CheckVersionOutput("t", VersionJson()).ok());
  const absl::Status other = CheckVersionOutput("/bin/t", R"({"version":"1","build_id":"000000000000"})");
  EXPECT_TRUE(absl::IsFailedPrecondition(other)) << other;
  for (const char* part : {"/bin/t", "000000000000", BuildId()}) {
    EXPECT_NE(other.message().find(part), std::string::npos) << other;
  }
}

TEST(Inventory, AnotherProgramIsNoTrainer) {
  for (const char* text : {"", "GNU coreutils 9.1", "[]", "{}", R"({"build_id":7})", R"({"build_id":null})",
                           R"({"build_id":"a","build_id":"b"})"}) {
    const absl::Status status = CheckVersionOutput("/bin/true", text);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_NE(status.message().find("--trainer"), std::string::npos) << status;
  }
}

TEST(Inventory, OffersWholeDataSetsAndNamesTheOthers) {
  CapturedLog log;
  const auto sets = ParseInspectOutput("t", R"([
      {"name":"fashion-mnist","digest":"ab12","path":"/d/fashion-mnist"},
      {"name":"cifar10","error":"/d/cifar10/data_batch_3.bin is missing"}])");
  ASSERT_TRUE(sets.ok()) << sets.status();
  ASSERT_EQ(sets->size(), 1);
  EXPECT_EQ(sets->at(0).name(), "fashion-mnist");
  EXPECT_EQ(sets->at(0).digest(), "ab12");
  EXPECT_NE(log.text().find("cifar10"), std::string::npos) << log.text();
  EXPECT_NE(log.text().find("data_batch_3.bin is missing"), std::string::npos) << log.text();
}

TEST(Inventory, NoDataIsNoError) {
  const auto sets = ParseInspectOutput("t", "[]");
  ASSERT_TRUE(sets.ok()) << sets.status();
  EXPECT_TRUE(sets->empty());
}

TEST(Inventory, AWrongListIsAnError) {
  for (const char* text : {"", "{}", "[1]", "[{}]", R"([{"digest":"a"}])", R"([{"name":1,"digest":"a"}])", "[null]"}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(ParseInspectOutput("t", text).status())) << text;
  }
}

TEST(Inventory, AsksTheProgram) {
  const Program program(absl::StrCat("[ \"$1 $2\" = 'version --json' ] && echo '", VersionJson(), "' && exit 0\n",
                                     "[ \"$*\" = 'data inspect --data-root /d --json' ] || exit 9\n",
                                     "echo '[{\"name\":\"a\",\"digest\":\"b\"}]'"));
  EXPECT_TRUE(CheckTrainer(program.path()).ok());
  const auto sets = InspectData(program.path(), "/d");
  ASSERT_TRUE(sets.ok()) << sets.status();
  EXPECT_EQ(sets->at(0).name(), "a");
}

TEST(Inventory, AMissingTrainerIsNamed) {
  const absl::Status status = CheckTrainer("/nonexistent/ham-trainer");
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_NE(status.message().find("/nonexistent/ham-trainer"), std::string::npos) << status;
  EXPECT_NE(status.message().find("--trainer"), std::string::npos) << status;
}

std::vector<ham::v1::Slot> TwoGpus() { return std::vector<ham::v1::Slot>(2); }

TEST(Inventory, GpusNeedTheirTrainer) {
  const Program program(absl::StrCat("echo '", VersionJson(), "'"), "trainer-cuda");
  const std::string trainer = program.path().substr(0, program.path().size() - std::string("-cuda").size());
  auto gpus = UsableGpus(TwoGpus(), trainer);
  ASSERT_TRUE(gpus.ok()) << gpus.status();
  EXPECT_EQ(gpus->size(), 2);
  CapturedLog log;
  gpus = UsableGpus(TwoGpus(), "/nonexistent/trainer");
  ASSERT_TRUE(gpus.ok()) << gpus.status();
  EXPECT_TRUE(gpus->empty());
  for (const char* part : {"2 GPUs", "/nonexistent/trainer-cuda", "install ham-trainer-cuda", "--no-gpu"}) {
    EXPECT_NE(log.text().find(part), std::string::npos) << log.text();
  }
  EXPECT_TRUE(UsableGpus({}, "/nonexistent/trainer").ok());
}

TEST(Inventory, ATrainerOfGpusThatCannotServeIsAnError) {
  const Program other(R"(echo '{"build_id":"000000000000"}')", "t-cuda");
  const Program broken("echo no libnccl.so.2 >&2; exit 127", "t-cuda");
  for (const Program* program : {&other, &broken}) {
    const std::string path = program->path();
    const absl::Status status = UsableGpus(TwoGpus(), path.substr(0, path.size() - 5)).status();
    EXPECT_FALSE(status.ok());
    EXPECT_NE(status.message().find(path), std::string::npos) << status;
    EXPECT_NE(status.message().find("--no-gpu"), std::string::npos) << status;
  }
}

TEST(RunProgram, GivesOutputOrExitStatusAndErrors) {
  EXPECT_EQ(RunProgram({"sh", "-c", "echo out; echo err >&2"}, absl::Seconds(20)).value_or("?"), "out\n");
  const absl::Status failed =
      RunProgram({"sh", "-c", "echo out; echo the reason >&2; exit 3"}, absl::Seconds(20)).status();
  EXPECT_TRUE(absl::IsUnavailable(failed)) << failed;
  EXPECT_NE(failed.message().find("exit status 3: the reason"), std::string::npos) << failed;
  const absl::Status killed = RunProgram({"sh", "-c", "kill -9 $$"}, absl::Seconds(20)).status();
  EXPECT_TRUE(absl::IsUnavailable(killed)) << killed;
  EXPECT_NE(killed.message().find("signal 9"), std::string::npos) << killed;
}

TEST(RunProgram, ReadsBothStreamsHoweverLong) {
  const auto text =
      RunProgram({"sh", "-c", "yes error | head -c 1000000 >&2; yes | head -c 1000000"}, absl::Seconds(20));
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->size(), 1000000);
}

TEST(RunProgram, EndsAtItsTimeout) {
  const absl::Time begin = absl::Now();
  EXPECT_TRUE(absl::IsDeadlineExceeded(RunProgram({"sleep", "600"}, absl::Milliseconds(50)).status()));
  // One that closed its output is no less overdue.
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      RunProgram({"sh", "-c", "exec sleep 600 >/dev/null 2>&1"}, absl::Milliseconds(50)).status()));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(20));
}

TEST(RunProgram, TooMuchOutputIsSaidSo) {
  const absl::Status status = RunProgram({"yes"}, absl::Minutes(1)).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

}  // namespace
}  // namespace ham::agent

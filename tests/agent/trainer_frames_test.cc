#include "worker/agent/trainer_frames.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/job_spec.h"
#include "proto/strict_json.h"
#include "proto/version.h"
#include "tests/agent/trainer_text.h"
#include "worker/ipc/frame.h"

namespace ham::agent {
namespace {

using ham::testing::TrainerFrameTexts;
using nlohmann::json;

// As ipc::ReadFrame and the agent take it.
absl::StatusOr<TrainerFrame> Parse(const std::string& text) {
  absl::StatusOr<json> frame = ParseStrictJson(text);
  if (!frame.ok()) return frame.status();
  if (!frame->is_object() || !frame->contains("type") || !frame->at("type").is_string()) {
    return absl::InvalidArgumentError("a frame must be an object with a string \"type\"");
  }
  return ParseTrainerFrame(*frame);
}

template <class Frame>
Frame Get(const std::string& text) {
  absl::StatusOr<TrainerFrame> frame = Parse(text);
  EXPECT_TRUE(frame.ok()) << frame.status();
  const Frame* found = frame.ok() ? std::get_if<Frame>(&*frame) : nullptr;
  EXPECT_NE(found, nullptr) << text;
  return found == nullptr ? Frame{} : *found;
}

TEST(TrainerFrames, AreReadWhole) {
  const auto& texts = TrainerFrameTexts();
  EXPECT_EQ(Get<HelloFrame>(texts[0]).build_id, "0123456789ab");
  const auto progress = Get<ham::v1::Progress>(texts[1]);
  EXPECT_EQ(progress.phase(), "train");
  EXPECT_EQ(progress.tick(), 12);
  EXPECT_EQ(progress.iteration(), 3);
  EXPECT_EQ(progress.epoch(), 1);
  EXPECT_EQ(progress.collective_sequence(), 7);
  EXPECT_EQ(progress.collective_begun(), 8);
  EXPECT_EQ(progress.collective_seconds(), 0.5);
  const auto train = Get<ham::v1::MetricPoint>(texts[2]);
  EXPECT_EQ(train.iteration(), 5);
  EXPECT_TRUE(std::isnan(train.train().loss()));
  const auto evaluation = Get<ham::v1::MetricPoint>(texts[3]).evaluation();
  EXPECT_TRUE(std::isnan(evaluation.per_class_clean_accuracy(1)));
  EXPECT_EQ(evaluation.suites(0).per_class_robust_accuracy(0), std::numeric_limits<double>::infinity());
  EXPECT_EQ(Get<ham::v1::MetricPoint>(texts[4]).summary().iterations(), 77);
  const auto checkpoint = Get<CheckpointFrame>(texts[5]);
  EXPECT_EQ(checkpoint.manifest, "/w/c/manifest.json");
  EXPECT_EQ(checkpoint.iteration, 10);
  EXPECT_EQ(checkpoint.epoch, 3);
  const auto set = Get<StoreSetFrame>(texts[6]);
  EXPECT_EQ(set.id, 1);
  EXPECT_EQ(set.key, "rank/0");
  EXPECT_EQ(set.value, std::string("\0\xFF", 2));
  const auto get = Get<StoreGetFrame>(texts[7]);
  EXPECT_EQ(get.id, 2);
  EXPECT_EQ(get.timeout, absl::Seconds(1.5));
  const auto failed = Get<FailedFrame>(texts[8]);
  EXPECT_EQ(failed.failure_class, "USER");
  EXPECT_EQ(failed.message, "no such data set");
  EXPECT_EQ(failed.lost_rank, std::nullopt);
  Get<DoneFrame>(texts[9]);
  EXPECT_EQ(Get<ham::v1::EvaluationFinding>(texts[10]).inputs(), R"({"seed":"0"})");
  const auto block = Get<ham::v1::EvaluationFinding>(texts[11]).block();
  EXPECT_EQ(block.stage(), 1);
  EXPECT_EQ(block.rows(2), 4294967295);
  EXPECT_EQ(block.predictions(2), 9);
  EXPECT_EQ(block.margins(1), -1.5);
  EXPECT_EQ(block.seconds(), 0.125);
  EXPECT_EQ(block.forward_passes(), 300);
  EXPECT_EQ(block.gradient_passes(), 200);
  EXPECT_EQ(Get<ham::v1::EvaluationFinding>(texts[12]).checks().warnings(0).type(),
            ham::v1::EvaluationWarning::ZERO_GRADIENTS);
  EXPECT_EQ(Get<FailedFrame>(texts[13]).lost_rank, 2);
}

struct Hostile {
  const char* text;
  const char* says;  // part of the error
};

class HostileFrame : public ::testing::TestWithParam<Hostile> {};

INSTANTIATE_TEST_SUITE_P(
    Frames, HostileFrame,
    ::testing::Values(
        Hostile{R"({"type":"launch"})", "launch"}, Hostile{R"({"type":""})", "unknown type"},
        Hostile{R"({"type":"start"})", "unknown type"},  // one of ours
        Hostile{R"({"type":"hello"})", "build_id"}, Hostile{R"({"type":"hello","build_id":7})", "build_id"},
        Hostile{R"({"type":"hello","build_id":null})", "null"},
        Hostile{R"({"type":"hello","build_id":"a","build_id":"b"})", "twice"},
        Hostile{R"({"type":"hello","type":"done"})", "twice"},
        Hostile{R"({"type":"hello","build_id":"a","more":1})", "more"}, Hostile{R"({"type":"done","x":{}})", "\"x\""},
        Hostile{
            R"({"type":"progress","phase":"train","tick":-1,"iteration":3,"epoch":1,"collective_sequence":7,"collective_begun":8,"collective_seconds":0.5})",
            "tick"},
        Hostile{
            R"({"type":"progress","phase":"train","tick":1.5,"iteration":3,"epoch":1,"collective_sequence":7,"collective_begun":8,"collective_seconds":0.5})",
            "tick"},
        Hostile{
            R"({"type":"progress","phase":"train","tick":"1","iteration":3,"epoch":1,"collective_sequence":7,"collective_begun":8,"collective_seconds":0.5})",
            "tick"},
        Hostile{
            R"({"type":"progress","phase":"train","tick":true,"iteration":3,"epoch":1,"collective_sequence":7,"collective_begun":8,"collective_seconds":0.5})",
            "tick"},
        Hostile{R"({"type":"progress","phase":"train","tick":1,"iteration":9223372036854775808,"epoch":1,
                    "collective_sequence":7,"collective_begun":8,"collective_seconds":0.5})",
                "iteration"},
        Hostile{
            R"({"type":"progress","phase":"train","tick":1,"iteration":1e3,"epoch":1,"collective_sequence":7,"collective_begun":8,"collective_seconds":0.5})",
            "iteration"},
        Hostile{R"({"type":"progress","phase":"train","tick":1,"iteration":1,"epoch":2147483648,
                    "collective_sequence":7,"collective_begun":8,"collective_seconds":0.5})",
                "epoch"},
        Hostile{
            R"({"type":"progress","phase":"sleep","tick":1,"iteration":1,"epoch":1,"collective_sequence":7,"collective_begun":8,"collective_seconds":0.5})",
            "phase"},
        Hostile{R"({"type":"progress","phase":"train","tick":1,"iteration":1,"epoch":1})", "collective_sequence"},
        Hostile{R"({"type":"progress","phase":"train","tick":1,"iteration":1,"epoch":1,"collective_sequence":7})",
                "collective_begun"},
        Hostile{R"({"type":"progress","phase":"train","tick":1,"iteration":1,"epoch":1,"collective_sequence":7,
                    "collective_begun":8,"collective_seconds":-0.5})",
                "collective_seconds"},
        Hostile{R"({"type":"progress","phase":"train","tick":1,"iteration":1,"epoch":1,"collective_sequence":7,
                    "collective_begun":8,"collective_seconds":"NaN"})",
                "collective_seconds"},
        Hostile{R"({"type":"checkpoint","manifest":["/a"],"iteration":10,"epoch":3})", "manifest"},
        Hostile{R"({"type":"checkpoint","manifest":"/a","epoch":3})", "iteration"},
        Hostile{R"({"type":"store_set","id":1,"key":"k","value":"A"})", "base64"},
        Hostile{R"({"type":"store_set","id":1,"key":"k"})", "value"},
        Hostile{R"({"type":"store_set","id":-1,"key":"k","value":""})", "id"},
        Hostile{R"({"type":"store_get","id":1,"key":"k","timeout_seconds":0})", "timeout_seconds"},
        Hostile{R"({"type":"store_get","id":1,"key":"k","timeout_seconds":-1})", "timeout_seconds"},
        Hostile{R"({"type":"store_get","id":1,"key":"k","timeout_seconds":"Infinity"})", "timeout_seconds"},
        Hostile{R"({"type":"store_get","id":1,"key":"k","timeout_seconds":1e999})", "JSON"},
        Hostile{R"({"type":"failed","message":"m"})", "class"},
        Hostile{R"({"type":"failed","class":"USER","message":{},"lost_rank":-1})", "message"},
        Hostile{R"({"type":"failed","class":"USER","message":"m"})", "lost_rank"},
        Hostile{R"({"type":"failed","class":"USER","message":"m","lost_rank":-2})", "an integer from -1 to"},
        Hostile{R"({"type":"failed","class":"USER","message":"m","lost_rank":2147483648})", "lost_rank"},
        Hostile{R"({"type":"metric"})", "point"}, Hostile{R"({"type":"metric","point":[]})", "point"},
        Hostile{R"({"type":"metric","point":"x"})", "point"},
        Hostile{R"({"type":"metric","point":{"summary":{}},"more":1})", "more"},
        Hostile{R"({"type":"finding"})", "finding"}, Hostile{R"({"type":"finding","finding":[]})", "finding"},
        Hostile{R"({"type":"finding","finding":{"checks":{}},"more":1})", "more"},
        Hostile{R"({"type":"finding","finding":{"block":{"stage":0}}})", "rows"},
        Hostile{R"({"type":"work","blocks":[]})", "unknown type"}));

TEST_P(HostileFrame, IsAnErrorThatNamesWhatIsWrong) {
  const absl::Status status = Parse(GetParam().text).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_NE(status.message().find(GetParam().says), std::string::npos) << status;
}

TEST(TrainerFrames, HugeTextIsCarriedOrRefusedButNeverFatal) {
  const std::string huge(3 << 20, 'a');
  EXPECT_EQ(
      Get<FailedFrame>(absl::StrCat(R"({"type":"failed","class":"USER","message":")", huge, R"(","lost_rank":-1})"))
          .message,
      huge);
  EXPECT_FALSE(Parse(absl::StrCat(R"({"type":")", huge, "\"}")).ok());
  EXPECT_FALSE(
      Parse(
          absl::StrCat(
              R"({"type":"progress","phase":")", huge,
              R"(","tick":1,"iteration":1,"epoch":1,"collective_sequence":7,"collective_begun":8,"collective_seconds":0.5})"))
          .ok());
}

// Whatever becomes of a frame on its way: an error or a frame, and no crash.
TEST(TrainerFrames, RandomChangesNeverCrash) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937_64 random(seed);
  const std::vector<std::string> parts = {"null",
                                          "{}",
                                          "[]",
                                          "\"\"",
                                          "-1",
                                          "1e308",
                                          "\"NaN\"",
                                          "true",
                                          ",",
                                          "\"x\":1,",
                                          "\\u0000",
                                          "\xFF",
                                          "9223372036854775808",
                                          "{",
                                          "[[[["};
  int good = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text = TrainerFrameTexts()[random() % TrainerFrameTexts().size()];
    for (uint64_t changes = 1 + random() % 3; changes > 0; --changes) {
      const size_t at = random() % (text.size() + 1);
      switch (random() % 4) {
        case 0:
          text.erase(at, 1 + random() % 8);
          break;
        case 1:
          text.insert(at, parts[random() % parts.size()]);
          break;
        case 2:
          if (at < text.size()) text[at] = static_cast<char>(random());
          break;
        default: {  // another value at a ':'
          const size_t colon = text.find(':', at);
          if (colon == std::string::npos) break;
          const size_t end = text.find_first_of(",}", colon);
          if (end != std::string::npos) text.replace(colon + 1, end - colon - 1, parts[random() % parts.size()]);
        }
      }
      if (text.empty()) text = "{";
    }
    const absl::StatusOr<TrainerFrame> frame = Parse(text);
    good += frame.ok() ? 1 : 0;
    if (!frame.ok()) {
      ASSERT_TRUE(absl::IsInvalidArgument(frame.status())) << frame.status() << " of " << text;
      ASSERT_FALSE(frame.status().message().empty()) << text;
    }
  }
  EXPECT_GT(good, 0);
}

TEST(TrainerFrames, StartTellsAllThatATrainerNeeds) {
  ham::v1::Assignment assignment;
  assignment.set_job("projects/default/jobs/j");
  assignment.set_attempt(2);
  assignment.set_rank(1);
  assignment.set_world_size(4);
  assignment.mutable_spec()->mutable_train()->mutable_resources()->set_threads_per_rank(3);
  const json frame = StartFrame(assignment, {.data_root = "/d",
                                             .work_dir = "/w",
                                             .resume_manifest = "/r/m",
                                             .weights = "/w/s",
                                             .interface = "eth1",
                                             .address = "192.0.2.7",
                                             .collective_timeout = absl::Seconds(30),
                                             .collective_patience = absl::Minutes(2)});
  EXPECT_EQ(frame.at("type"), "start");
  EXPECT_EQ(frame.at("build_id"), BuildId());
  EXPECT_EQ(frame.at("job"), "projects/default/jobs/j");
  EXPECT_EQ(frame.at("attempt"), 2);
  EXPECT_EQ(frame.at("rank"), 1);
  EXPECT_EQ(frame.at("world_size"), 4);
  EXPECT_EQ(frame.at("data_root"), "/d");
  EXPECT_EQ(frame.at("work_dir"), "/w");
  EXPECT_EQ(frame.at("resume_manifest"), "/r/m");
  EXPECT_EQ(frame.at("weights"), "/w/s");
  EXPECT_EQ(frame.at("interface"), "eth1");
  EXPECT_EQ(frame.at("threads"), 3);
  EXPECT_EQ(frame.at("address"), "192.0.2.7");
  EXPECT_EQ(frame.at("collective_timeout_seconds"), 30.0);
  EXPECT_EQ(frame.at("collective_patience_seconds"), 120.0);
  EXPECT_EQ(frame.at("spec"), json::parse(MessageToJson(assignment.spec())));
  EXPECT_EQ(StartFrame(assignment, {}).at("collective_timeout_seconds"), 120.0);
  assignment.mutable_spec()->mutable_evaluate()->mutable_resources()->set_threads_per_rank(5);
  EXPECT_EQ(StartFrame(assignment, {}).at("threads"), 5);
}

TEST(TrainerFrames, WorkNamesAllBlocksInTheirOrder) {
  WorkBlocks blocks;
  EXPECT_EQ(WorkFrame(blocks), json::parse(R"({"type":"work","blocks":[]})"));
  blocks.Add()->set_stage(-1);
  blocks.Mutable(0)->add_rows(3);
  blocks.Mutable(0)->add_rows(4294967295);
  blocks.Add()->set_stage(4);
  EXPECT_EQ(WorkFrame(blocks),
            json::parse(R"({"type":"work","blocks":[{"stage":-1,"rows":[3,4294967295]},{"stage":4,"rows":[]}]})"));
}

TEST(TrainerFrames, AnswersCarryValueOrError) {
  EXPECT_EQ(StoreReplyFrame(7, std::string("\0\xFF", 2)),
            json({{"type", "store_reply"}, {"id", 7}, {"ok", true}, {"value", "AP8="}, {"error", ""}}));
  EXPECT_EQ(StoreReplyFrame(7, absl::AbortedError("over")),
            json({{"type", "store_reply"}, {"id", 7}, {"ok", false}, {"value", ""}, {"error", "over"}}));
  EXPECT_EQ(CheckpointDoneFrame("/m", absl::OkStatus()),
            json({{"type", "checkpoint_done"}, {"manifest", "/m"}, {"ok", true}, {"error", ""}}));
  EXPECT_EQ(CheckpointDoneFrame("/m", absl::DataLossError("cut")),
            json({{"type", "checkpoint_done"}, {"manifest", "/m"}, {"ok", false}, {"error", "cut"}}));
}

}  // namespace
}  // namespace ham::agent

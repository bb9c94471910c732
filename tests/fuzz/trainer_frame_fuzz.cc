// Frames of a trainer, metric points among them, as the agent reads them.
#include <google/protobuf/stubs/logging.h>

#include "proto/strict_json.h"
#include "tests/fuzz/fuzz.h"
#include "worker/agent/metric_point.h"
#include "worker/agent/trainer_frames.h"

namespace ham::fuzz {
namespace {

struct Checks {
  void operator()(const agent::HelloFrame&) const {}
  void operator()(const agent::FailedFrame&) const {}
  void operator()(const agent::DoneFrame&) const {}
  void operator()(const ham::v1::Progress& progress) const {
    Check(progress.tick() >= 0 && progress.iteration() >= 0 && progress.epoch() >= 0, "counters are not negative");
    Check(ham::v1::Progress().ParseFromString(progress.SerializeAsString()), "progress can be sent");
  }
  void operator()(const ham::v1::MetricPoint& point) const {
    ham::v1::MetricPoint again;
    Check(again.ParseFromString(point.SerializeAsString()), "a metric point can be sent");
    Check(agent::CheckMetricPoint(again).ok(), "a metric point that was taken is good");
  }
  void operator()(const agent::CheckpointFrame& frame) const {
    Check(frame.iteration >= 0 && frame.epoch >= 0, "counters are not negative");
  }
  void operator()(const agent::StoreSetFrame& frame) const { Check(frame.id >= 0, "ids are not negative"); }
  void operator()(const agent::StoreGetFrame& frame) const {
    Check(frame.timeout > absl::ZeroDuration(), "timeouts are positive");
  }
};

}  // namespace

std::vector<std::string> Seeds() {
  return {R"({"type": "hello", "build_id": "0123456789ab"})",
          R"({"type": "progress", "phase": "train", "tick": 1, "iteration": 2, "epoch": 3, "collective_sequence": 4,
          "collective_begun": 5, "collective_seconds": 0.25})",
          R"({"type": "checkpoint", "manifest": "/w/c/manifest.json", "iteration": 10, "epoch": 1})",
          R"({"type": "store_set", "id": 7, "key": "k", "value": "AAECAw=="})",
          R"({"type": "store_get", "id": 8, "key": "k", "timeout_seconds": 0.5})",
          R"({"type": "store_get", "id": 8, "key": "k", "timeout_seconds": 1e-300})",
          R"({"type": "failed", "class": "TRAINER_CRASH", "message": "m", "lost_rank": 1})",
          R"({"type": "done"})",
          R"({"type": "metric", "point": {"iteration": "5", "epoch": 1, "train": {"loss": "NaN", "learning_rate": 0.1,
          "end_of_epoch": true, "per_class_hard_share": [0.5], "steps_to_boundary": ["3", "1", "0"],
          "confidence_histogram": [1, 2, 3, 4, 5, 6, 7, 8, 9, "10"]}}})",
          R"({"type": "metric", "point": {"evaluation": {"split": "test", "class_names": ["a", "b"],
          "per_class_rows": ["1", "2"], "per_class_clean_accuracy": [0.5, 1],
          "suites": [{"name": "pgd", "per_class_robust_accuracy": [0.1, 0.2], "worst_class": 1}]}}})",
          R"({"type": "metric", "point": {"summary": {"attack_seconds": 1.5}}})"};
}

void TryInput(const std::string& input) {
  static const google::protobuf::LogSilencer* const silent = new google::protobuf::LogSilencer;
  static_cast<void>(silent);
  const absl::StatusOr<nlohmann::json> json = ParseStrictJson(input);
  if (!json.ok() || !json->is_object() || !json->contains("type") || !json->at("type").is_string())
    return;  // ReadFrame
  const absl::StatusOr<agent::TrainerFrame> frame = agent::ParseTrainerFrame(*json);
  if (frame.ok()) {
    std::visit(Checks{}, *frame);
  } else {
    Check(frame.status().code() == absl::StatusCode::kInvalidArgument, "a refused frame is an invalid argument");
  }
}

}  // namespace ham::fuzz

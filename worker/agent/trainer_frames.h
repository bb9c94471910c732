// Frames of a trainer (worker/ipc/frame.h) as types. Pure.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "ham/v1/worker_service.pb.h"

namespace ham::agent {

struct HelloFrame {
  std::string build_id;
};
struct CheckpointFrame {
  std::string manifest;  // absolute path
  int64_t iteration = 0;
  int32_t epoch = 0;
};
struct StoreSetFrame {
  int64_t id = 0;
  std::string key;
  std::string value;  // bytes
};
struct StoreGetFrame {
  int64_t id = 0;
  std::string key;
  absl::Duration timeout;  // > 0
};
struct FailedFrame {
  std::string failure_class;
  std::string message;
  std::optional<int32_t> lost_rank;  // >= 0
};
struct DoneFrame {};
using TrainerFrame = std::variant<HelloFrame, ham::v1::Progress, ham::v1::MetricPoint, ham::v1::EvaluationFinding,
                                  CheckpointFrame, StoreSetFrame, StoreGetFrame, FailedFrame, DoneFrame>;

// From the JSON of ipc::ReadFrame. InvalidArgument in one sentence for anything that no trainer of this build sends.
absl::StatusOr<TrainerFrame> ParseTrainerFrame(const nlohmann::json& frame);

// CPU threads of each rank of the job.
int ThreadsOf(const ham::v1::JobSpec& spec);

// What a rank needs beside its assignment.
struct RankPlace {
  std::string data_root;
  std::string work_dir;
  std::string resume_manifest;  // "" = from scratch
  std::string weights;          // of an evaluation: path of their file
  // Of the gang's traffic; see the frame.
  std::string interface;
  std::string address;
  // The coordinator's verdict on a rank that hangs comes first, and names it; these are for when there is none.
  absl::Duration collective_timeout = absl::Minutes(2);
  absl::Duration collective_patience = absl::Minutes(10);  // a slow disk, a large checkpoint to fetch, an evaluation
};

nlohmann::json StartFrame(const ham::v1::Assignment& assignment, const RankPlace& place);
using WorkBlocks = google::protobuf::RepeatedPtrField<ham::v1::WorkBlock>;
nlohmann::json WorkFrame(const WorkBlocks& blocks);
// Answers; an error is told to the trainer as text.
nlohmann::json StoreReplyFrame(int64_t id, const absl::StatusOr<std::string>& value);
nlohmann::json CheckpointDoneFrame(const std::string& manifest, const absl::Status& status);

}  // namespace ham::agent

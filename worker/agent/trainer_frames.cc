#include "worker/agent/trainer_frames.h"

#include <cmath>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "proto/job_spec.h"
#include "proto/strict_json.h"
#include "proto/version.h"
#include "worker/agent/evaluation_finding.h"
#include "worker/agent/metric_point.h"

namespace ham::agent {
namespace {

using nlohmann::json;

// Reads the fields of one frame; keeps the first error.
class FrameReader {
 public:
  explicit FrameReader(const json& frame) : frame_(frame), type_(frame.at("type").get<std::string>()) {}

  const std::string& type() const { return type_; }
  std::string Text(const char* key) {
    if (const json* value = Find(key); value != nullptr && value->is_string()) return value->get<std::string>();
    return Wrong(key, "text"), "";
  }
  int64_t Integer(const char* key, int64_t most = std::numeric_limits<int64_t>::max(), int64_t least = 0) {
    const json* value = Find(key);
    if (value != nullptr && value->is_number_integer() && (!value->is_number_unsigned() || IsSigned(*value))) {
      const int64_t number = value->get<int64_t>();
      if (number >= least && number <= most) return number;
    }
    return Wrong(key, absl::StrCat("an integer from ", least, " to ", most)), 0;
  }
  json Object(const char* key) {
    if (const json* value = Find(key); value != nullptr && value->is_object()) return *value;
    return Wrong(key, "an object"), json::object();
  }
  double Seconds(const char* key) {
    const json* value = Find(key);
    if (value != nullptr && value->is_number()) {
      const double number = value->get<double>();
      if (std::isfinite(number) && number >= 0) return number;
    }
    return Wrong(key, "a number of at least 0"), 0;
  }
  absl::Duration PositiveDuration(const char* key) {
    const absl::Duration duration = absl::Seconds(Seconds(key));
    if (duration == absl::ZeroDuration()) Wrong(key, "a positive number");  // 1e-300 is 0 seconds, too
    return duration;
  }
  void Fail(const std::string& why) {
    if (status_.ok()) {
      status_ = absl::InvalidArgumentError(absl::StrCat("the trainer sent a frame \"", type_, "\" ", why));
    }
  }
  // Every field must have been read.
  template <class Frame>
  absl::StatusOr<TrainerFrame> Finish(Frame frame) {
    for (const auto& [key, value] : frame_.items()) {
      if (key != "type" && read_.count(key) == 0) Fail(absl::StrCat("with the unknown field \"", key, "\""));
    }
    if (!status_.ok()) return status_;
    return TrainerFrame(std::move(frame));
  }

 private:
  static bool IsSigned(const json& value) {
    return value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  }
  const json* Find(const char* key) {
    read_.insert(key);
    const auto found = frame_.find(key);
    return found == frame_.end() ? nullptr : &*found;
  }
  void Wrong(const char* key, const std::string& expected) {
    Fail(absl::StrCat("whose field \"", key, "\" is missing or not ", expected));
  }

  const json& frame_;
  const std::string type_;
  std::set<std::string> read_;  // keys
  absl::Status status_;
};

constexpr int64_t kInt32 = std::numeric_limits<int32_t>::max();

const std::set<std::string> kPhases = {"load", "connect", "first_step", "train", "save", "evaluate"};

absl::StatusOr<TrainerFrame> ReadProgress(FrameReader& reader) {
  ham::v1::Progress progress;
  progress.set_phase(reader.Text("phase"));
  if (kPhases.count(progress.phase()) == 0) reader.Fail("whose field \"phase\" is no phase of a trainer");
  progress.set_tick(reader.Integer("tick"));
  progress.set_iteration(reader.Integer("iteration"));
  progress.set_epoch(static_cast<int32_t>(reader.Integer("epoch", kInt32)));
  progress.set_collective_sequence(reader.Integer("collective_sequence"));
  progress.set_collective_begun(reader.Integer("collective_begun"));
  progress.set_collective_seconds(reader.Seconds("collective_seconds"));
  return reader.Finish(std::move(progress));
}

// The message that is the frame's only field.
template <class Message>
absl::StatusOr<TrainerFrame> ReadMessage(FrameReader& reader, const char* key,
                                         absl::StatusOr<Message> (*parse)(const json&)) {
  const json text = reader.Object(key);
  if (const absl::StatusOr<TrainerFrame> frame_only = reader.Finish(DoneFrame{}); !frame_only.ok()) return frame_only;
  absl::StatusOr<Message> message = parse(text);
  if (!message.ok()) return message.status();
  return TrainerFrame(*std::move(message));
}

absl::StatusOr<TrainerFrame> ReadStoreSet(FrameReader& reader) {
  StoreSetFrame set{reader.Integer("id"), reader.Text("key"), ""};
  absl::StatusOr<std::string> value = Base64Decode(reader.Text("value"));
  if (value.ok()) {
    set.value = *std::move(value);
  } else {
    reader.Fail("whose field \"value\" is not base64");
  }
  return reader.Finish(std::move(set));
}

}  // namespace

absl::StatusOr<TrainerFrame> ParseTrainerFrame(const json& frame) {
  FrameReader reader(frame);
  const std::string& type = reader.type();
  if (type == "hello") return reader.Finish(HelloFrame{reader.Text("build_id")});
  if (type == "progress") return ReadProgress(reader);
  if (type == "metric") return ReadMessage(reader, "point", ParseMetricPoint);
  if (type == "finding") return ReadMessage(reader, "finding", ParseFinding);
  if (type == "checkpoint") {
    CheckpointFrame checkpoint{reader.Text("manifest"), reader.Integer("iteration"),
                               static_cast<int32_t>(reader.Integer("epoch", kInt32))};
    return reader.Finish(std::move(checkpoint));
  }
  if (type == "store_set") return ReadStoreSet(reader);
  if (type == "store_get") {
    StoreGetFrame get{reader.Integer("id"), reader.Text("key"), reader.PositiveDuration("timeout_seconds")};
    return reader.Finish(std::move(get));
  }
  if (type == "failed") {
    FailedFrame failed{reader.Text("class"), reader.Text("message"), std::nullopt};
    const int64_t lost = reader.Integer("lost_rank", kInt32, /*least=*/-1);
    if (lost >= 0) failed.lost_rank = static_cast<int32_t>(lost);
    return reader.Finish(std::move(failed));
  }
  if (type == "done") return reader.Finish(DoneFrame{});
  return absl::InvalidArgumentError(absl::StrCat("the trainer sent a frame of the unknown type \"", type, "\""));
}

int ThreadsOf(const ham::v1::JobSpec& spec) {
  const ham::v1::ResourceSpec& resources = spec.has_evaluate() ? spec.evaluate().resources() : spec.train().resources();
  return resources.threads_per_rank();
}

json StartFrame(const ham::v1::Assignment& assignment, const RankPlace& place) {
  return {{"type", "start"},
          {"build_id", BuildId()},
          {"job", assignment.job()},
          {"attempt", assignment.attempt()},
          {"rank", assignment.rank()},
          {"world_size", assignment.world_size()},
          {"spec", json::parse(MessageToJson(assignment.spec()))},
          {"data_root", place.data_root},
          {"work_dir", place.work_dir},
          {"threads", ThreadsOf(assignment.spec())},
          {"resume_manifest", place.resume_manifest},
          {"weights", place.weights},
          {"interface", place.interface},
          {"address", place.address},
          {"collective_timeout_seconds", absl::ToDoubleSeconds(place.collective_timeout)},
          {"collective_patience_seconds", absl::ToDoubleSeconds(place.collective_patience)}};
}

json WorkFrame(const WorkBlocks& blocks) {
  json list = json::array();
  for (const ham::v1::WorkBlock& block : blocks) {
    list.push_back(
        {{"stage", block.stage()}, {"rows", std::vector<uint32_t>(block.rows().begin(), block.rows().end())}});
  }
  return {{"type", "work"}, {"blocks", std::move(list)}};
}

json StoreReplyFrame(int64_t id, const absl::StatusOr<std::string>& value) {
  json frame = {{"type", "store_reply"}, {"id", id}, {"ok", value.ok()}, {"value", ""}, {"error", ""}};
  if (value.ok()) {
    frame["value"] = Base64Encode(*value);
  } else {
    frame["error"] = std::string(value.status().message());
  }
  return frame;
}

json CheckpointDoneFrame(const std::string& manifest, const absl::Status& status) {
  return {{"type", "checkpoint_done"},
          {"manifest", manifest},
          {"ok", status.ok()},
          {"error", std::string(status.message())}};
}

}  // namespace ham::agent

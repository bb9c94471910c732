// Job specs as a trainer gets them, JSON.
#include "tests/fuzz/fuzz.h"
#include "tests/support/toy_spec_json.h"
#include "worker/ipc/frame.h"
#include "worker/trainer/train_spec.h"

namespace ham::fuzz {

std::vector<std::string> Seeds() { return {testing::ToySpecJson().dump(), R"({"train": {}})"}; }

void TryInput(const std::string& input) {
  const absl::StatusOr<nlohmann::json> json = ipc::ParseStrictJson(input);
  if (!json.ok()) {
    Check(json.status().code() == absl::StatusCode::kInvalidArgument, "refused JSON is an invalid argument");
    return;
  }
  const absl::StatusOr<trainer::TrainSpec> spec = trainer::ParseTrainSpec(*json);
  if (!spec.ok()) {
    Check(spec.status().code() == absl::StatusCode::kInvalidArgument, "a refused spec is an invalid argument");
    return;
  }
  Check(spec->method.mining_step >= 1 && spec->method.mining_step <= spec->attack.steps, "mining_step is a step");
  Check(spec->batch_size >= spec->world_size && spec->world_size >= 1, "each rank has a row");
  Check(spec->attack.epsilon > 0 && spec->attack.epsilon <= 1, "epsilon lies in (0, 1]");
  for (size_t i = 1; i < spec->optimizer.milestones.size(); ++i) {
    Check(spec->optimizer.milestones[i - 1] < spec->optimizer.milestones[i], "milestones ascend");
  }
}

}  // namespace ham::fuzz

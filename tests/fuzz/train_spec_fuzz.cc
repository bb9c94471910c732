// Job specs as a trainer gets them, JSON.
#include "proto/strict_json.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/toy_spec_json.h"
#include "worker/trainer/train_spec.h"

namespace ham::fuzz {

std::vector<std::string> Seeds() {
  nlohmann::json full = testing::ToySpecJson();
  full["train"]["attack"]["stages"] =
      nlohmann::json::array({{{"start_epoch", 2}, {"epsilon", 0.2}, {"step_size", 0.1}, {"steps", 4}}});
  full["train"]["optimizer"]["milestones"] = {2};
  full["train"]["optimizer"]["factors"] = {0.1};
  return {testing::ToySpecJson().dump(), full.dump(), R"({"train": {}})"};
}

void TryInput(const std::string& input) {
  const absl::StatusOr<nlohmann::json> json = ParseStrictJson(input);
  if (!json.ok()) {
    Check(json.status().code() == absl::StatusCode::kInvalidArgument, "refused JSON is an invalid argument");
    return;
  }
  const absl::StatusOr<trainer::TrainSpec> spec = trainer::ParseTrainSpec(*json);
  if (!spec.ok()) {
    Check(spec.status().code() == absl::StatusCode::kInvalidArgument, "a refused spec is an invalid argument");
    return;
  }
  Check(spec->method.mining_step >= 1, "mining_step is a step");
  std::vector<int> starts = {spec->method.mining_start_epoch};
  for (const trainer::AttackStage& stage : spec->attack.stages) starts.push_back(stage.start_epoch);
  for (const int epoch : starts) {
    if (epoch < spec->method.mining_start_epoch || epoch > spec->epochs) continue;
    Check(spec->method.mining_step <= trainer::StageAt(spec->attack, epoch).steps,
          "mining_step is one of the attack's");
  }
  Check(spec->batch_size >= spec->world_size && spec->world_size >= 1, "each rank has a row");
  Check(spec->attack.epsilon > 0 && spec->attack.epsilon <= 1, "epsilon lies in (0, 1]");
  Check(spec->optimizer.factors.empty() || spec->optimizer.factors.size() == spec->optimizer.milestones.size(),
        "each milestone has a factor");
  for (size_t i = 1; i < spec->optimizer.milestones.size(); ++i) {
    Check(spec->optimizer.milestones[i - 1] < spec->optimizer.milestones[i], "milestones ascend");
  }
}

}  // namespace ham::fuzz

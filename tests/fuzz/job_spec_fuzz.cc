// Job specs as YAML, from the text to what the trainer reads.
#include <google/protobuf/stubs/logging.h>

#include "proto/job_spec.h"
#include "proto/strict_json.h"
#include "tests/fuzz/fuzz.h"
#include "worker/trainer/train_spec.h"

namespace ham::fuzz {

std::vector<std::string> Seeds() {
  return {"train: {data: {name: fashion-mnist}}",
          R"(train:
  data: {name: fashion-mnist, train_rows: 10000, test_rows: 500}
  model: {name: cnn-32-64}
  method: {name: ham, mining_step: 2, mining_start_epoch: 1, retained_easy_share: 0.3, minimum_hard: 1}
  attack: {epsilon: 8/255, step_size: 0.03, steps: 5, random_start: false}
  seed: 18446744073709551615
  epochs: 4
  batch_size: 64
  ema_decay: 0.9
  optimizer: {name: sgd, learning_rate: 1e-3, momentum: 0.5, weight_decay: 0, schedule: step, milestones: [3, 5]}
  evaluation:
    every_epochs: 2
    suites:
      - name: pgd-20
        epsilon: 0.1
        attacks: [{steps: 20}, {loss: margin, restarts: 2, step_size: 1/255, random_start: true}]
    final_suites: [{name: last, attacks: [&a {steps: 3}, *a]}]
  resources: {world_size: 2, device: cpu, threads_per_rank: 1}
  retry: {max_attempts: 3}
)",
          R"(train:
  data: {name: imagenette, validation_share: 0.1, image_size: 160, extra: 1m.v2, extra_share: 0.7,
         augmentation: {crop_padding: 8, padding: reflect, flip: false, cutout: 16, cutmix: 0}}
  model: {name: wrn-28-10, activation: silu, extra_block: true, normalization: data_set}
  method: {retained_easy: high_confidence, weight_mode: kappa, drop_share: 0.1}
  attack: {loss: dlr, start_distribution: normal, weights: current, batch_norm: training, norm: l2,
           stages: [{start_epoch: 2, epsilon: 4/255, step_size: 1/255, steps: 5}, {start_epoch: 9}]}
  optimizer: {name: sgd, nesterov: true, decay_norm_and_bias: false, schedule: step, schedule_by: epoch,
              milestones: [6, 9], factors: [0.1, 0.01], gradient_clip_norm: 1}
  evaluation: {reestimate_batch_norm: true, suites: [{name: a, norm: linf, attacks: [{loss: dlr, judged_at: any}]}]}
  label_smoothing: 0.1
  class_bias: {running_rate: 0.01, running_decay: 0.9, fit_rounds: 3, fit_step: 0.2}
  precision: bf16
  batch_norm: local
  swa_start_epoch: 10
  checkpoint: {every_iterations: 100, keep_every_epochs: 5}
  accumulation_steps: 4
)",
          R"(evaluate:
  model: {name: preact-resnet-18}
  weights: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  data: {name: cifar-10, rows: 1000}
  suite: {name: strong, norm: l2, epsilon: 1/2, attacks: [{name: apgd}, {name: apgd-t, targets: 3}]}
  precision: fp64
  resources: {world_size: 4}
)",
          "evaluate: {job: projects/default/jobs/j1, data: {rows: 7}}",
          "train:\n  data:\n    name: \"a\\u00e9\"\n  method: {name: pgd-at}\n",
          "%YAML 1.2\n---\ntrain: !!map {}\n...\n",
          ",",
          "a: 1\n---\nb: 2"};
}

void TryInput(const std::string& input) {
  static const google::protobuf::LogSilencer* const silent = new google::protobuf::LogSilencer;
  static_cast<void>(silent);
  const absl::StatusOr<ham::v1::JobSpec> parsed = ParseJobSpecYaml(input);
  if (!parsed.ok()) {
    Check(parsed.status().code() == absl::StatusCode::kInvalidArgument, "a refused text is an invalid argument");
    return;
  }
  ham::v1::JobSpec spec;
  Check(spec.ParseFromString(parsed->SerializeAsString()), "what was read can be sent: its text is UTF-8");
  if (!ResolveJobSpec(&spec).empty()) return;
  ham::v1::JobSpec again = spec;
  Check(ResolveJobSpec(&again).empty(), "a resolved spec is good");
  Check(again.SerializeAsString() == spec.SerializeAsString(), "a resolved spec resolves to itself");
  const absl::StatusOr<nlohmann::json> json = ParseStrictJson(MessageToJson(spec));
  Check(json.ok(), "a resolved spec can be sent to a trainer");
  if (spec.has_evaluate() && spec.evaluate().weights().empty()) return;  // they are still to come from a job
  const absl::Status taken = spec.has_evaluate() ? trainer::ParseEvaluateSpec(*json).status()
                                                 : trainer::ParseTrainSpec(*json).status();
  Check(taken.ok(), "the trainer takes what the coordinator took: " + taken.ToString());
}

}  // namespace ham::fuzz

// A complete JobSpec as the trainer reads it; tests change what they are about.
#pragma once

#include <nlohmann/json.hpp>

namespace ham::testing {

inline nlohmann::json ToySpecJson() {
  return nlohmann::json::parse(R"({"train": {
    "data": {"name": "fashion-mnist", "train_rows": 64, "test_rows": 32, "validation_share": 0, "image_size": 0,
             "augmentation": {"crop_padding": 0, "padding": "zero", "flip": false, "cutout": 0, "cutmix": 0},
             "extra": "", "extra_share": 0},
    "model": {"name": "cnn-16-32", "activation": "relu", "extra_block": false,
              "normalization": "none"},
    "method": {"name": "ham", "mining_step": 2, "mining_start_epoch": 1, "retained_easy_share": 0.25,
               "minimum_hard": 1, "retained_easy": "random", "weight_mode": "none", "drop_share": 0,
               "balance_ranks": false},
    "attack": {"epsilon": 0.1, "step_size": 0.03, "steps": 3, "random_start": true, "loss": "cross_entropy",
               "start_distribution": "uniform", "weights": "current", "batch_norm": "evaluation", "stages": [],
               "norm": "linf"},
    "optimizer": {"name": "adam", "learning_rate": 0.001, "momentum": 0.9, "weight_decay": 0.0, "schedule": "cosine",
                  "milestones": [], "gamma": 0.1, "nesterov": false, "decay_norm_and_bias": true, "warmup_share": 0.3,
                  "schedule_by": "iteration", "factors": [], "gradient_clip_norm": 0},
    "epochs": 2, "batch_size": 32, "ema_decay": 0.9, "seed": "18446744073709551615", "label_smoothing": 0,
    "class_bias": {"running_rate": 0, "running_decay": 0.98, "fit_rounds": 0, "fit_step": 0.1},
    "precision": "fp32", "batch_norm": "synchronized", "swa_start_epoch": 0,
    "checkpoint": {"every_iterations": 0, "keep_every_epochs": 0}, "accumulation_steps": 1,
    "evaluation": {"every_epochs": 1,
      "suites": [{"name": "pgd", "epsilon": 0.1, "attacks": [
        {"loss": "cross_entropy", "steps": 2, "step_size": 0.05, "restarts": 1, "random_start": true,
         "judged_at": "last", "name": "pgd", "targets": 0}], "norm": "linf"}],
      "final_suites": [], "reestimate_batch_norm": false},
    "resources": {"world_size": 1, "device": "cpu", "threads_per_rank": 1},
    "retry": {"max_attempts": 5}}})");
}

}  // namespace ham::testing

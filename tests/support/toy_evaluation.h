// A small network and what it is evaluated by.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/temporary_directory.h"
#include "tests/support/toy_spec_json.h"
#include "worker/trainer/job_runner.h"
#include "worker/trainer/weights_file.h"

namespace ham::testing {

// A data set of `rows` images a split under `root`, named as Fashion-MNIST.
inline void WriteToyDataSet(const std::string& root, uint32_t rows) {
  const auto big_endian = [](uint32_t value) {
    std::string bytes;
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift);
    return bytes;
  };
  for (const std::string split : {"train", "t10k"}) {
    std::string images("\0\0\x08\x03", 4), labels("\0\0\x08\x01", 4);
    images += big_endian(rows) + big_endian(28) + big_endian(28);
    labels += big_endian(rows);
    for (uint32_t row = 0; row < rows; ++row) {
      labels += static_cast<char>(row % 10);
      for (uint32_t pixel = 0; pixel < 784; ++pixel)
        images += static_cast<char>(pixel / 79 == row % 10 ? 220 : pixel % 40);
    }
    WriteTestFile(root + "/fashion-mnist/" + split + "-images-idx3-ubyte", images);
    WriteTestFile(root + "/fashion-mnist/" + split + "-labels-idx1-ubyte", labels);
  }
}

// Trains cnn-16-32 on the data set under `root`, in `folder`; the path of its weights.
inline std::string TrainToyNetwork(const std::string& root, const std::string& folder) {
  trainer::RankJob job;
  job.spec = ToySpecJson();
  job.spec["train"]["method"]["name"] = "pgd-at";
  job.spec["train"]["evaluation"]["every_epochs"] = 0;
  job.spec["train"]["optimizer"]["learning_rate"] = 0.005;
  job.spec["train"]["epochs"] = 8;
  job.data_root = root;
  job.work_dir = folder;
  std::filesystem::create_directories(folder);
  const absl::Status trained = trainer::RunAlone(job, "", /*json=*/true);
  EXPECT_TRUE(trained.ok()) << trained;
  const std::string weights = folder + "/weights.safetensors";
  const absl::Status written = trainer::ExportWeights(folder + "/checkpoints/epoch-000008", false, weights);
  EXPECT_TRUE(written.ok()) << written;
  return weights;
}

// Of the first 45 images, as the trainer reads it.
inline nlohmann::json ToyEvaluateSpecJson() {
  return nlohmann::json::parse(R"({"evaluate": {
    "model": {"name": "cnn-16-32", "activation": "relu", "extra_block": false, "normalization": "none"},
    "weights": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "job": "",
    "data": {"name": "fashion-mnist", "rows": 45, "image_size": 0},
    "suite": {"name": "autoattack", "epsilon": 0.25, "norm": "linf", "attacks": [
      {"loss": "margin", "steps": 3, "step_size": 0.05, "restarts": 2, "random_start": true, "judged_at": "last",
       "name": "pgd", "targets": 0},
      {"loss": "cross_entropy", "steps": 12, "step_size": 0, "restarts": 1, "random_start": true, "judged_at": "any",
       "name": "apgd", "targets": 0},
      {"loss": "cross_entropy", "steps": 60, "step_size": 0, "restarts": 1, "random_start": true, "judged_at": "any",
       "name": "square", "targets": 0}]},
    "precision": "fp32", "seed": "18446744073709551615",
    "resources": {"world_size": 3, "device": "cpu", "threads_per_rank": 1},
    "retry": {"max_attempts": 5}}})");
}

}  // namespace ham::testing

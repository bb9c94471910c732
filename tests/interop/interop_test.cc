// The engine beside PyTorch: a step that it recorded, and all models, where PyTorch for Python is.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <string>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/item.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/slice.h>
#include <gtest/gtest.h>

#include "tests/interop/engine_attacks.h"
#include "tests/interop/engine_step.h"
#include "tests/support/temporary_directory.h"

namespace ham::trainer {
namespace {

class InteropTest : public ::testing::Test {
 protected:
  InteropTest() { at::set_num_threads(1); }
};

void ExpectNear(const at::Tensor& actual, const at::Tensor& expected, const at::Tensor& scale,
                const std::string& name) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << name;
  EXPECT_LE((actual - expected).norm().item<double>(), 1e-10 * scale.norm().item<double>()) << name;
}

// By: pytorch_peer.py record preact-resnet-18 8 preact_step.safetensors
TEST_F(InteropTest, AStepWithBatchNormIsPyTorchs) {
  constexpr char kExpected[] = "expected.", kSample[] = "sample.";
  constexpr int64_t kSamples = 16;
  auto file = DecodeSafetensors(ham::testing::ReadTestFile(HAM_INTEROP_DIR "/preact_step.safetensors"));
  ASSERT_TRUE(file.ok()) << file.status();
  TensorMap expected;
  for (auto& [name, tensor] : file->tensors) {
    if (name.starts_with(kExpected)) {
      expected[name.substr(std::size(kExpected) - 1)] = tensor;
    } else if (tensor.is_floating_point()) {
      tensor = tensor.to(at::kDouble);
    }
  }
  ASSERT_GT(expected.size(), 60u);
  const TensorMap step = EngineStep(*file);
  ASSERT_TRUE(at::equal(step.at("hard"), expected.at("hard")));
  for (const char* name : {"x_adv", "loss"}) ExpectNear(step.at(name), expected.at(name), expected.at(name), name);
  for (const auto& [name, samples] : expected) {
    if (!name.starts_with(kSample)) continue;
    const std::string tensor = name.substr(std::size(kSample) - 1);
    const at::Tensor flat = step.at(tensor).flatten();
    const int64_t stride = std::max<int64_t>(1, flat.numel() / kSamples);
    ExpectNear(flat.norm(), expected.at(tensor), expected.at(tensor), tensor);
    ExpectNear(flat.slice(0, 0, stride * samples.numel(), stride), samples, expected.at(tensor), name);
  }
}

// By: autoattack_peer.py record attack_runs.safetensors, in which every 20th point stands with every 16th pixel.
TEST_F(InteropTest, RunsOfAttacksAreTheReferences) {
  auto file = DecodeSafetensors(ham::testing::ReadTestFile(HAM_INTEROP_DIR "/attack_runs.safetensors"));
  ASSERT_TRUE(file.ok()) << file.status();
  for (auto& [name, tensor] : file->tensors) {
    if (tensor.is_floating_point()) tensor = tensor.to(at::kDouble);
  }
  for (const std::string norm : {"linf", "l2"}) {
    Safetensors given = *file;
    given.metadata["norm"] = norm;
    given.metadata["epsilon"] = file->metadata.at("epsilon." + norm);
    given.tensors["start"] = file->tensors.at("start." + norm);
    for (const std::string attack : {"apgd-ce", "apgd-dlr", "apgd-t", "fab-t"}) {
      SCOPED_TRACE(norm + " " + attack);
      given.metadata["attack"] = attack;
      const TensorMap ours = attack == "fab-t" ? FollowFab(given) : FollowApgd(given);
      const auto expected = [&](const std::string& what) {
        return file->tensors.at("expected." + norm + "." + attack + "." + what);
      };
      const at::Tensor sampled = ours.at("run").slice(0, 0, c10::nullopt, 20).flatten(2).slice(2, 0, c10::nullopt, 16);
      ExpectNear(sampled, expected("points"), expected("points"), "points");
      if (attack != "fab-t") ExpectNear(ours.at("losses"), expected("losses"), expected("losses"), "losses");
    }
  }
}

// Of the venv that tests/figures makes; empty where there is none.
std::string PythonWithPyTorch() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::string python =
      (cache != nullptr ? std::string(cache) : std::string(home != nullptr ? home : "") + "/.cache") +
      "/ham/peer-venv/bin/python";
  return std::filesystem::exists(python) ? python : "";
}

constexpr char kNoPython[] = "no PyTorch for Python in the cache folder's ham/peer-venv; tests/figures makes it";

TEST_F(InteropTest, WeightsTravelBothWays) {
  const std::string python = PythonWithPyTorch();
  if (python.empty()) GTEST_SKIP() << kNoPython;
  const std::string command = python + " " HAM_INTEROP_DIR "/pytorch_peer.py interop " HAM_ENGINE_PEER;
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
}

TEST_F(InteropTest, StateDictsAreExportedAndChecked) {
  const std::string python = PythonWithPyTorch();
  if (python.empty()) GTEST_SKIP() << kNoPython;
  const std::string command = python + " -B " HAM_INTEROP_DIR "/export_test.py " HAM_TRAINER_PROGRAM;
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
}

}  // namespace
}  // namespace ham::trainer

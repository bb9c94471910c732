// Checkpoints on disk. The first byte says what the rest is: the manifest, or the file of state or of weights under a
// manifest that fits it.
#include "worker/trainer/checkpoint.h"

#include <ATen/ops/arange.h>

#include "proto/sha256.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/temporary_directory.h"

namespace ham::fuzz {
namespace {

using testing::ReadTestFile;
using testing::WriteTestFile;

// A good checkpoint, to be damaged.
struct Good {
  Good() {
    trainer::Checkpoint checkpoint;
    checkpoint.info.build_id = "0123456789ab";
    checkpoint.info.spec_digest = std::string(64, 'a');
    checkpoint.model["w"] = at::arange(4, at::kFloat);
    checkpoint.state["w.mean"] = at::arange(4, at::kFloat);
    checkpoint.scalars = {{"seed", 18446744073709551615ULL}, {"nested", {{"a", {1, 0.5}}}}};
    manifest = trainer::WriteCheckpoint(directory / "c", checkpoint).value();
    for (const char* name : {"manifest.json", "state.safetensors", "model.safetensors"}) {
      files.push_back({directory / ("c/" + std::string(name)), ReadTestFile(directory / ("c/" + std::string(name)))});
    }
  }
  struct File {
    std::string path;
    std::string bytes;
  };
  testing::TemporaryDirectory directory;
  std::string manifest;
  std::vector<File> files;
};

const Good& GoodCheckpoint() {
  static const Good* const good = new Good;
  return *good;
}

}  // namespace

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds;
  for (size_t i = 0; i < 3; ++i)
    seeds.push_back(std::string(1, static_cast<char>(i)) + GoodCheckpoint().files[i].bytes);
  return seeds;
}

void TryInput(const std::string& input) {
  const Good& good = GoodCheckpoint();
  if (input.empty()) return;
  const size_t which = static_cast<unsigned char>(input[0]) % 3;
  const std::string bytes = input.substr(1);
  nlohmann::json manifest = nlohmann::json::parse(good.files[0].bytes);
  if (which > 0) {
    nlohmann::json& entry = manifest["files"][which == 1 ? 1 : 0];
    entry["sha256"] = Sha256Hex(bytes);
    entry["bytes"] = bytes.size();
  }
  for (size_t i = 1; i < 3; ++i) WriteTestFile(good.files[i].path, which == i ? bytes : good.files[i].bytes);
  WriteTestFile(good.files[0].path, which == 0 ? bytes : manifest.dump());
  const absl::StatusOr<trainer::Checkpoint> loaded = trainer::LoadCheckpoint(good.manifest);
  if (!loaded.ok()) {
    const absl::StatusCode code = loaded.status().code();
    Check(code == absl::StatusCode::kDataLoss || (which == 0 && code == absl::StatusCode::kFailedPrecondition),
          "errors are those of the contract: " + loaded.status().ToString());
    return;
  }
  Check(loaded->info.iteration >= 0 && loaded->info.epoch >= 0 && loaded->info.world_size >= 1, "numbers are in range");
  Check(loaded->scalars.is_object(), "scalars are an object");
}

}  // namespace ham::fuzz

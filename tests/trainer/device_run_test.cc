// Runs on a device that this test plays: it links an accelerator of its own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/host_accelerator.h"
#include "tests/support/toy_spec_json.h"
#include "worker/trainer/job_runner.h"
#include "worker/trainer/models/channel_ops.h"

namespace ham::trainer {

absl::StatusOr<std::unique_ptr<Accelerator>> MakeAccelerator() {
  return std::make_unique<ham::testing::HostAccelerator>();
}

const ChannelOps* CudaChannelOps() { return nullptr; }

namespace {

using ham::testing::ToySpecJson;
using ::testing::HasSubstr;

TEST(DeviceRun, APrecisionThatTheDeviceLacksIsRefused) {
  RankJob job;
  job.spec = ToySpecJson();
  job.spec["train"]["resources"]["device"] = "cuda";
  job.spec["train"]["precision"] = "bf16";
  const absl::Status refused = PrepareRun(job).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("precision is bf16"));
  job.spec["train"]["precision"] = "fp64";
  EXPECT_TRUE(absl::IsNotFound(PrepareRun(job).status()));  // there is no data
}

}  // namespace
}  // namespace ham::trainer

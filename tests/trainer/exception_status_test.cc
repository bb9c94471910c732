#include "worker/trainer/exception_status.h"

#include <new>
#include <stdexcept>
#include <string>

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

namespace ham::trainer {
namespace {

const c10::SourceLocation kHere{"Run", "somewhere.cc", 1};

TEST(ExceptionStatus, TooLittleMemoryOfAGpuIsTheUsersAffair) {
  const absl::Status status = StatusOfException(c10::OutOfMemoryError(
      kHere,
      "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.80 GiB of which 1.00 GiB is "
      "free. Of the allocated memory 137.00 GiB is allocated by PyTorch."));
  EXPECT_EQ(status,
            absl::InvalidArgumentError(
                "the GPU has too little memory for this job (Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
                "139.80 GiB of which 1.00 GiB is free): double train.accumulation_steps, or lower train.batch_size"));
}

TEST(ExceptionStatus, AFailedGpuIsNotTheProgramsFault) {
  const std::string ecc = "CUDA error: uncorrectable ECC error encountered";
  EXPECT_EQ(StatusOfException(c10::AcceleratorError(kHere, 214, ecc + "\nCUDA kernel errors might be reported later")),
            absl::UnavailableError("the GPU failed (" + ecc + "): look for Xid in the kernel's log of its host"));
  EXPECT_EQ(StatusOfException(c10::AcceleratorError(kHere, 700, "CUDA error: an illegal memory access")),
            absl::InternalError("the trainer failed: CUDA error: an illegal memory access"));
}

TEST(ExceptionStatus, TheHostsMemory) {
  const absl::Status expected = absl::ResourceExhaustedError("the host has no memory for this rank");
  EXPECT_EQ(StatusOfException(std::bad_alloc()), expected);
  EXPECT_EQ(StatusOfException(c10::Error(kHere, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")),
            expected);
}

TEST(ExceptionStatus, AllElseIsAFaultOfTheTrainer) {
  EXPECT_EQ(StatusOfException(std::runtime_error("first\nsecond")), absl::InternalError("the trainer failed: first"));
}

}  // namespace
}  // namespace ham::trainer

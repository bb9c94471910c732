#include "worker/trainer/exception_status.h"

#include <algorithm>
#include <array>
#include <new>
#include <string>

#include <c10/util/Exception.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace ham::trainer {
namespace {

// Errors of CUDA that stand for the machine, not for the program: devices unavailable, no device, an uncorrectable
// error of memory (ECC), of NVLink, a contained one, a kernel that the driver ended, of the hardware's stack, a system
// that is not ready, an external device, and unknown ones, as after the bus lost the GPU.
constexpr std::array kGpuFailures = {46, 100, 214, 220, 226, 702, 714, 802, 911, 999};

// Up to the first line's end, without what LibTorch adds for those who work on it.
std::string FirstLine(const std::exception& error) {
  const auto* const own = dynamic_cast<const c10::Error*>(&error);
  const std::string text = own != nullptr ? own->what_without_backtrace() : error.what();
  return text.substr(0, text.find('\n'));
}

}  // namespace

std::string WhatDidNotFit(const std::exception& error) {
  const std::string text = FirstLine(error);
  const size_t begin = text.find("Tried to allocate"), end = text.find(" is free.");
  return begin == std::string::npos || end == std::string::npos ? text : text.substr(begin, end + 8 - begin);
}

absl::Status StatusOfException(const std::exception& error) {
  const std::string text = FirstLine(error);
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("the GPU has too little memory for this job (", WhatDidNotFit(error),
                                                   "): double train.accumulation_steps, or lower train.batch_size"));
  }
  if (const auto* const gpu = dynamic_cast<const c10::AcceleratorError*>(&error)) {
    if (std::ranges::count(kGpuFailures, gpu->get_error_code()) > 0) {
      return absl::UnavailableError(
          absl::StrCat("the GPU failed (", text, "): look for Xid in the kernel's log of its host"));
    }
  }
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr ||
      absl::StrContains(text, "can't allocate memory")) {  // LibTorch's allocator
    return absl::ResourceExhaustedError("the host has no memory for this rank");
  }
  return absl::InternalError("the trainer failed: " + text);
}

absl::Status WithoutExceptions(const std::function<absl::Status()>& run) {
  try {
    return run();
  } catch (const std::exception& error) {
    return StatusOfException(error);
  }
}

}  // namespace ham::trainer

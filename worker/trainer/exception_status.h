// What an exception of LibTorch, or of the JSON library, says of the run that it ended.
#pragma once

#include <exception>
#include <functional>
#include <string>

#include "absl/status/status.h"

namespace ham::trainer {

// One sentence. InvalidArgument where a GPU has too little memory for what the job asks; ResourceExhausted where the
// host has; Unavailable where a GPU failed; else Internal. Stateless; safe from any thread.
absl::Status StatusOfException(const std::exception& error);

// run(), or what its exception says.
absl::Status WithoutExceptions(const std::function<absl::Status()>& run);

// "Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.80 GiB of which 1.00 GiB is free": of an error of
// LibTorch's allocators; the whole first line of others.
std::string WhatDidNotFit(const std::exception& error);

}  // namespace ham::trainer

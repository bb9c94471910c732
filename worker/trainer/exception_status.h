// What an exception of LibTorch, or of the JSON library, says of the run that it ended.
#pragma once

#include <exception>

#include "absl/status/status.h"

namespace ham::trainer {

// One sentence. InvalidArgument where a GPU has too little memory for what the job asks; ResourceExhausted where the
// host has; Unavailable where a GPU failed; else Internal. Stateless; safe from any thread.
absl::Status StatusOfException(const std::exception& error);

}  // namespace ham::trainer

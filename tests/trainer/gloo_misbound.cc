// This program is linked with LibTorch before Gloo. CheckGlooBinding must refuse it.
#include <cstdio>

#include "worker/trainer/gloo_collective.h"

int main() {
  const absl::Status status = ham::trainer::CheckGlooBinding();
  const std::string text(status.message());
  std::printf("%s\n", text.c_str());
  const bool right = absl::IsFailedPrecondition(status) && text.find("libtorch_cpu") != std::string::npos;
  return right ? 0 : 1;
}

#include <dlfcn.h>
#include <gloo/allreduce.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "worker/trainer/gloo_collective.h"

namespace ham::trainer {

absl::Status CheckGlooBinding() {
  Dl_info info{};
  const auto function = static_cast<void (*)(const gloo::AllreduceOptions&)>(&gloo::allreduce);
  if (dladdr(reinterpret_cast<const void*>(function), &info) == 0 || info.dli_fname == nullptr) {
    return absl::FailedPreconditionError(
        "the library that holds gloo::allreduce cannot be told: link Gloo dynamically");
  }
  if (std::strstr(info.dli_fname, "libgloo") != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("gloo::allreduce was bound to ", info.dli_fname,
                   ", not to libgloo: this program was linked with LibTorch before Gloo; link it through ham_gloo"));
}

}  // namespace ham::trainer

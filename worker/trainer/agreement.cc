#include "worker/trainer/agreement.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/sha256.h"

namespace ham::trainer {
namespace {

struct Part {
  const char* name;
  std::string value;
};

std::array<Part, 6> Parts(const RunIdentity& run) {
  return {Part{"build", run.build_id},
          Part{"spec", run.spec_digest},
          Part{"data set", run.data_digest},
          Part{"threads", absl::StrCat(run.threads)},
          Part{"first iteration", absl::StrCat(run.iteration)},
          Part{"weights", run.weights_digest}};
}

}  // namespace

absl::Status CheckAgreement(const RunIdentity& mine, Collective& ranks) {
  const std::array<Part, 6> parts = Parts(mine);
  std::string digests;
  for (const Part& part : parts) digests += Sha256Hex(part.value);  // of one length
  std::vector<char> all(digests.size() * static_cast<size_t>(ranks.world_size()));
  // One rank may have read its data and checkpoint long before another.
  if (absl::Status status = ranks.Barrier(); !status.ok()) return status;
  if (absl::Status status = ranks.AllGather(digests.data(), digests.size(), all.data()); !status.ok()) return status;
  const size_t part_size = digests.size() / parts.size();
  const auto part_of = [&](int rank, size_t part) {
    return std::string_view(&all[static_cast<size_t>(rank) * digests.size() + part * part_size], part_size);
  };
  for (int rank = 1; rank < ranks.world_size(); ++rank) {
    for (size_t part = 0; part < parts.size(); ++part) {
      if (part_of(rank, part) == part_of(0, part)) continue;
      return absl::FailedPreconditionError(absl::StrCat(
          "rank ", rank, " has another ", parts[part].name, " than rank 0 (here, on rank ", ranks.rank(), ": ",
          parts[part].value, "); start all ranks with one build, one spec, the same data and one checkpoint"));
    }
  }
  return absl::OkStatus();
}

}  // namespace ham::trainer

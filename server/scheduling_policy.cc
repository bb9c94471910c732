#include "server/scheduling_policy.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ham::server {
namespace {

using Groups = std::map<SlotGroup, std::vector<const FreeSlot*>>;
using Kind = std::tuple<std::string, std::string, std::optional<SlotGroup>>;  // device, data set, group

Groups GroupSlots(const QueuedJob& job, const std::vector<FreeSlot>& slots) {
  Groups groups;
  for (const FreeSlot& slot : slots) {
    if (slot.device != job.device || job.avoided.count(slot.worker_id) != 0) continue;
    const std::optional<std::string> digest = slot.DigestOf(job.data_set);
    if (digest && (!job.group || SlotGroup{*digest, slot.build_id} == *job.group)) {
      groups[{*digest, slot.build_id}].push_back(&slot);
    }
  }
  return groups;
}

size_t LargestGang(const Groups& groups) {
  size_t largest = 0;
  for (const auto& [key, slots] : groups) largest = std::max(largest, slots.size());
  return largest;
}

// `count` slots of the largest group, from as few workers as possible; empty if none has as many.
std::vector<FreeSlot> Pick(const Groups& groups, size_t count) {
  const std::vector<const FreeSlot*>* best = nullptr;
  for (const auto& [key, slots] : groups) {  // ordered by digest, then build_id: the first of equals wins
    if (best == nullptr || slots.size() > best->size()) best = &slots;
  }
  if (best == nullptr || best->size() < count) return {};
  std::map<std::string, size_t> free_of_worker;
  for (const FreeSlot* slot : *best) ++free_of_worker[slot->worker_id];
  std::vector<const FreeSlot*> order = *best;
  std::sort(order.begin(), order.end(), [&](const FreeSlot* a, const FreeSlot* b) {
    const auto key = [&](const FreeSlot* slot) {
      return std::make_tuple(-static_cast<int64_t>(free_of_worker[slot->worker_id]), slot->worker_name, slot->worker_id,
                             slot->index);
    };
    return key(a) < key(b);
  });
  std::vector<FreeSlot> picked;
  for (size_t i = 0; i < count; ++i) picked.push_back(*order[i]);
  return picked;
}

// "2 cpu slots", "a cpu slot".
std::string NeedOf(const QueuedJob& job) {
  if (job.pool) return absl::StrCat("a ", job.device, " slot");
  return absl::StrCat(job.world_size, " ", job.device, " slots");
}

std::string NoWorkerFits(const QueuedJob& job, size_t largest) {
  const std::string needs =
      absl::StrCat("Needs ", NeedOf(job), " with data set ", job.data_set,
                   job.group ? absl::StrCat(" and build ", job.group->second, ", as when it began; ")
                             : " of one digest and one build; ");
  if (largest == 0) return absl::StrCat(needs, "no connected worker has any.");
  return absl::StrCat(needs, "the largest gang that the connected workers could hold is ", largest, ".");
}

}  // namespace

std::optional<std::string> FreeSlot::DigestOf(const std::string& data_set) const {
  if (data_set.empty()) return "";
  for (const auto& [name, digest] : data_sets) {
    if (name == data_set) return digest;
  }
  return std::nullopt;
}

Schedule SubmitOrderGangs::Plan(const std::vector<QueuedJob>& queue, const std::vector<FreeSlot>& free,
                                const std::vector<FreeSlot>& all) const {
  Schedule plan;
  plan.refusals.reserve(queue.size());
  std::vector<FreeSlot> left = free;
  std::map<Kind, size_t> largest;  // by kind, over all slots; a long queue has few kinds
  bool blocked = false;
  for (const QueuedJob& job : queue) {
    const size_t most = static_cast<size_t>(job.world_size);
    const size_t fewest = job.pool ? 1 : most;
    if (!job.grows) {
      auto [fit, unknown] = largest.try_emplace({job.device, job.data_set, job.group}, 0);
      if (unknown) fit->second = LargestGang(GroupSlots(job, all));
      if (fewest > fit->second) {
        plan.refusals.push_back({job.name, "NO_WORKER_FITS", NoWorkerFits(job, fit->second)});
        continue;
      }
    }
    if (blocked && job.grows) continue;
    if (blocked) {
      plan.refusals.push_back({job.name, "BEHIND_EARLIER_JOB", "Waits behind an earlier job that waits for slots."});
      continue;
    }
    const Groups groups = GroupSlots(job, left);
    std::vector<FreeSlot> picked = Pick(groups, std::clamp(LargestGang(groups), fewest, most));
    if (picked.empty() && job.grows) continue;
    if (picked.empty()) {
      blocked = true;
      plan.refusals.push_back({job.name, "WAITING_FOR_SLOTS",
                               absl::StrCat("Needs ", NeedOf(job), "; ", LargestGang(groups), " are free together.")});
      continue;
    }
    std::set<std::pair<std::string, int>> taken;
    for (const FreeSlot& slot : picked) taken.insert({slot.worker_id, slot.index});
    std::erase_if(left, [&taken](const FreeSlot& slot) { return taken.count({slot.worker_id, slot.index}) != 0; });
    plan.grants.push_back({job.name, std::move(picked)});
  }
  return plan;
}

}  // namespace ham::server

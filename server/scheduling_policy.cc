#include "server/scheduling_policy.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "absl/strings/str_cat.h"

namespace ham::server {
namespace {

using Groups = std::map<SlotGroup, std::vector<const SlotView*>>;

bool Avoids(const QueuedJob& job, std::string_view worker_id) {
  return std::find(job.avoided.begin(), job.avoided.end(), worker_id) != job.avoided.end();
}

Groups GroupSlots(const QueuedJob& job, const std::vector<SlotView>& slots) {
  Groups groups;
  for (const SlotView& slot : slots) {
    if (slot.device != job.device || Avoids(job, slot.worker_id)) continue;
    const std::optional<std::string_view> digest = slot.DigestOf(job.data_set);
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
std::vector<SlotView> Pick(const Groups& groups, size_t count) {
  const std::vector<const SlotView*>* best = nullptr;
  for (const auto& [key, slots] : groups) {  // ordered by digest, then build_id: the first of equals wins
    if (best == nullptr || slots.size() > best->size()) best = &slots;
  }
  if (best == nullptr || best->size() < count) return {};
  std::map<std::string_view, size_t> free_of_worker;
  for (const SlotView* slot : *best) ++free_of_worker[slot->worker_id];
  std::vector<const SlotView*> order = *best;
  std::sort(order.begin(), order.end(), [&](const SlotView* a, const SlotView* b) {
    const auto key = [&](const SlotView* slot) {
      return std::make_tuple(-static_cast<int64_t>(free_of_worker[slot->worker_id]), slot->worker_name, slot->worker_id,
                             slot->index);
    };
    return key(a) < key(b);
  });
  std::vector<SlotView> picked;
  for (size_t i = 0; i < count; ++i) picked.push_back(*order[i]);
  return picked;
}

// "2 cpu slots", "a cpu slot".
std::string NeedOf(const QueuedJob& job) {
  if (job.pool) return absl::StrCat("a ", std::string(job.device), " slot");
  return absl::StrCat(job.world_size, " ", std::string(job.device), " slots");
}

std::string NoWorkerFits(const QueuedJob& job, size_t largest) {
  const std::string needs =
      absl::StrCat("Needs ", NeedOf(job), " with data set ", std::string(job.data_set),
                   job.group ? absl::StrCat(" and build ", std::string(job.group->second), ", as when it began; ")
                             : " of one digest and one build; ");
  if (largest == 0) return absl::StrCat(needs, "no connected worker has any.");
  return absl::StrCat(needs, "the largest gang that the connected workers could hold is ", largest, ".");
}

// What the slots, free or not, could hold of a kind of job; a long queue has few kinds.
class Capacity {
 public:
  explicit Capacity(const std::vector<SlotView>& all) : all_(all) {}

  // The largest gang for jobs of this kind.
  size_t LargestFor(const QueuedJob& job) { return FindKind(job).largest; }

  // Index of the reason why this one never fits.
  size_t NeverFits(const QueuedJob& job, std::vector<WaitReason>* reasons) {
    Kind& kind = FindKind(job);
    const auto [known, is_new] = kind.never_fits.try_emplace(job.pool ? 0 : job.world_size, reasons->size());
    if (is_new) reasons->push_back({"NO_WORKER_FITS", NoWorkerFits(job, kind.largest)});
    return known->second;
  }

 private:
  using Key = std::tuple<std::string_view, std::string_view, std::optional<SlotGroup>>;  // device, data set, group
  struct Kind {
    size_t largest = 0;
    std::map<int, size_t> never_fits;  // reason by world_size, 0 for pools
  };

  Kind& FindKind(const QueuedJob& job) {
    const Key key = {job.device, job.data_set, job.group};
    if (last_ != kinds_.end() && last_->first == key) return last_->second;
    bool is_new = false;
    std::tie(last_, is_new) = kinds_.try_emplace(key);
    if (is_new) last_->second.largest = LargestGang(GroupSlots(job, all_));
    return last_->second;
  }

  const std::vector<SlotView>& all_;
  std::map<Key, Kind> kinds_;
  std::map<Key, Kind>::iterator last_ = kinds_.end();  // neighbours are often of one kind
};

void Remove(const std::vector<SlotView>& picked, std::vector<SlotView>* left) {
  std::set<std::pair<std::string_view, int>> taken;
  for (const SlotView& slot : picked) taken.insert({slot.worker_id, slot.index});
  std::erase_if(*left, [&taken](const SlotView& slot) { return taken.count({slot.worker_id, slot.index}) != 0; });
}

}  // namespace

std::optional<std::string_view> SlotView::DigestOf(std::string_view data_set) const {
  if (data_set.empty()) return "";
  for (const ham::v1::DataSet& one : data_sets) {
    if (one.name() == data_set) return one.digest();
  }
  return std::nullopt;
}

Schedule SubmitOrderGangs::Plan(const std::vector<QueuedJob>& queue, const std::vector<SlotView>& free,
                                const std::vector<SlotView>& all) const {
  Schedule plan;
  plan.refusals.reserve(queue.size());
  std::vector<SlotView> left = free;
  Capacity capacity(all);
  std::optional<size_t> blocked;  // reason of those behind
  for (size_t i = 0; i < queue.size(); ++i) {
    const QueuedJob& job = queue[i];
    const size_t most = static_cast<size_t>(job.world_size);
    const size_t fewest = job.pool ? 1 : most;
    if (!job.grows && fewest > capacity.LargestFor(job)) {
      plan.refusals.push_back({i, capacity.NeverFits(job, &plan.reasons)});
      continue;
    }
    if (blocked) {
      if (!job.grows) plan.refusals.push_back({i, *blocked});
      continue;
    }
    const Groups groups = GroupSlots(job, left);
    std::vector<SlotView> picked = Pick(groups, std::clamp(LargestGang(groups), fewest, most));
    if (!picked.empty()) {
      Remove(picked, &left);
      plan.grants.push_back({i, std::move(picked)});
    } else if (!job.grows) {
      plan.refusals.push_back({i, plan.reasons.size()});
      plan.reasons.push_back(
          {"WAITING_FOR_SLOTS", absl::StrCat("Needs ", NeedOf(job), "; ", LargestGang(groups), " are free together.")});
      blocked = plan.reasons.size();
      plan.reasons.push_back({"BEHIND_EARLIER_JOB", "Waits behind an earlier job that waits for slots."});
    }
  }
  return plan;
}

}  // namespace ham::server

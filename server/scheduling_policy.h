// Which queued job gets which slots now. A pure function, replaceable as a whole.
//
// It is asked at every event, with every queued job: its input are views into what the caller owns, and jobs that
// wait for the same reason share its words.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ham/v1/cluster_service.pb.h"

namespace ham::server {

using SlotGroup = std::pair<std::string_view, std::string_view>;  // (digest of the data set, build_id)

// A queued job that may start now (its backoff is over), or a pool at work that may grow.
struct QueuedJob {
  int world_size = 1;  // slots that it needs; of a pool, at most
  std::string_view device;
  std::string_view data_set;
  bool pool = false;                              // takes as many as it can get, one at least
  bool grows = false;                             // a pool at work, which does not wait for more
  std::optional<SlotGroup> group = std::nullopt;  // of a pool that has begun: only such slots
  std::vector<std::string_view> avoided = {};     // worker_ids where a pool's ranks failed again and again
};

// A slot of a connected worker.
struct SlotView {
  std::string_view worker_id;
  std::string_view worker_name;
  int index = 0;
  std::string_view device;
  std::string_view build_id;
  std::span<const ham::v1::DataSet> data_sets;

  // "" for "".
  std::optional<std::string_view> DigestOf(std::string_view data_set) const;
};

struct Grant {
  size_t job = 0;               // index in the queue
  std::vector<SlotView> slots;  // rank r takes slots[r]
};

// Why a job waits, for Job.state_reason and state_message.
struct WaitReason {
  std::string reason;   // NO_WORKER_FITS or WAITING_FOR_SLOTS or BEHIND_EARLIER_JOB
  std::string message;  // one sentence; NO_WORKER_FITS names the largest gang that would fit
};

struct Refusal {
  size_t job = 0;     // index in the queue
  size_t reason = 0;  // index in Schedule.reasons
};

struct Schedule {
  std::vector<Grant> grants;
  std::vector<Refusal> refusals;  // every job of the queue without a grant, but for pools at work; in its order
  std::vector<WaitReason> reasons;
};

class SchedulingPolicy {
 public:
  virtual ~SchedulingPolicy() = default;
  // queue: in submit order. free: ordered by (worker_name, index). all: free and busy slots of connected
  // workers, same order, to tell "never fits" from "not now". Grants view what `free` views. Deterministic; stateless;
  // any thread.
  virtual Schedule Plan(const std::vector<QueuedJob>& queue, const std::vector<SlotView>& free,
                        const std::vector<SlotView>& all) const = 0;
};

// Submit order, all or nothing, no overtaking: a job that could fit on the connected slots but does not now blocks
// those behind it; a job that cannot fit on them at all (NO_WORKER_FITS) does not block. A gang uses slots of one
// device, one build_id and one digest of its data set; the group with most free slots first (ties: smallest
// digest, then build_id); within it the workers with most free slots first (fewest hosts), ties by name, index. A pool
// at work grows in its place of the queue.
class SubmitOrderGangs : public SchedulingPolicy {
 public:
  Schedule Plan(const std::vector<QueuedJob>& queue, const std::vector<SlotView>& free,
                const std::vector<SlotView>& all) const override;
};

}  // namespace ham::server

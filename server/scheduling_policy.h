// Which queued job gets which slots now. A pure function, replaceable as a whole.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace ham::server {

using SlotGroup = std::pair<std::string, std::string>;  // (digest of the data set, build_id)

// A queued job that may start now (its backoff is over), or a pool at work that may grow.
struct QueuedJob {
  std::string name;
  int world_size = 1;  // slots that it needs; of a pool, at most
  std::string device;
  std::string data_set;
  bool pool = false;                              // takes as many as it can get, one at least
  bool grows = false;                             // a pool at work, which does not wait for more
  std::optional<SlotGroup> group = std::nullopt;  // of a pool that has begun: only such slots
  std::set<std::string> avoided = {};             // worker_ids where a pool's ranks failed again and again
};

// A free slot of a connected worker.
struct FreeSlot {
  std::string worker_id;
  std::string worker_name;
  int index = 0;
  std::string device;
  std::string build_id;
  std::vector<std::pair<std::string, std::string>> data_sets;  // (name, digest)

  // "" for "".
  std::optional<std::string> DigestOf(const std::string& data_set) const;
};

struct Grant {
  std::string job;
  std::vector<FreeSlot> slots;  // rank r takes slots[r]
};

// Why the first waiting job waits, for Job.state_reason.
struct Refusal {
  std::string job;
  std::string reason;   // NO_WORKER_FITS or WAITING_FOR_SLOTS or BEHIND_EARLIER_JOB
  std::string message;  // one sentence; NO_WORKER_FITS names the largest gang that would fit
};

struct Schedule {
  std::vector<Grant> grants;
  std::vector<Refusal> refusals;  // every job of the queue without a grant, but for pools at work
};

class SchedulingPolicy {
 public:
  virtual ~SchedulingPolicy() = default;
  // queue: in submit order. free: ordered by (worker_name, index). all: free and busy slots of connected
  // workers, same order, to tell "never fits" from "not now". Deterministic; stateless; any thread.
  virtual Schedule Plan(const std::vector<QueuedJob>& queue, const std::vector<FreeSlot>& free,
                        const std::vector<FreeSlot>& all) const = 0;
};

// Submit order, all or nothing, no overtaking: a job that could fit on the connected slots but does not now blocks
// those behind it; a job that cannot fit on them at all (NO_WORKER_FITS) does not block. A gang uses slots of one
// device, one build_id and one digest of its data set; the group with most free slots first (ties: smallest
// digest, then build_id); within it the workers with most free slots first (fewest hosts), ties by name, index. A pool
// at work grows in its place of the queue.
class SubmitOrderGangs : public SchedulingPolicy {
 public:
  Schedule Plan(const std::vector<QueuedJob>& queue, const std::vector<FreeSlot>& free,
                const std::vector<FreeSlot>& all) const override;
};

}  // namespace ham::server

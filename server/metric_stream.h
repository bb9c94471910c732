// Watches: each follows the log of one job, from any place in its history to the newest record.
//
// Memory is bounded whatever readers do: a watch holds at most one response; the newest records of a watched job
// lie in one ring shared by its watches; who lags behind the ring reads pages from the store. A reader that takes
// nothing for `watch_stall` while records wait is ended with RESOURCE_EXHAUSTED. One thread serves all watches.
//
// gRPC-free: a stream is a WatchSink.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "ham/v1/job_service.pb.h"
#include "server/clock.h"
#include "server/options.h"

namespace ham::server {

using RecordPtr = std::shared_ptr<const ham::v1::JobRecord>;

// Where a watch goes on: text form "LOG_EPOCH.JOB_ID.SEQUENCE", opaque to clients.
class WatchTokens {
 public:
  explicit WatchTokens(std::string log_epoch) : log_epoch_(std::move(log_epoch)) {}
  std::string Make(const std::string& job, int64_t sequence) const;
  // The sequence after which to go on; 0 for "". OUT_OF_RANGE (reason FOREIGN_TOKEN) with the oldest token of the job
  // in ErrorInfo.metadata["token"] for text that Make did not give for this job and log epoch.
  absl::StatusOr<int64_t> Read(const std::string& job, const std::string& token) const;
  // That error.
  absl::Status Foreign(const std::string& job, const std::string& token) const;

 private:
  const std::string log_epoch_;
};

// Attaches reason and ErrorInfo.metadata["token"].
absl::Status WithToken(const absl::Status& status, const std::string& reason, const std::string& token);

// The receiving end of a watch. Send and End are called by the hub's thread only; after End, nothing.
class WatchSink {
 public:
  virtual ~WatchSink() = default;
  // Starts to send; WatchHub::Written tells when the next may come.
  virtual void Send(ham::v1::WatchJobResponse response) = 0;
  virtual void End(const absl::Status& status) = 0;
};

struct WatchRequest {
  std::string token;
  std::set<int> kinds;  // RecordKind; empty = all
  bool follow = true;
};

class WatchHub {
 public:
  // Records of `job` with sequence > after, ascending without a gap, up to `limit`, and no more once they have `bytes`
  // (a response takes no more); blocks on the store. Hub's thread.
  using LogReader = std::function<absl::StatusOr<std::vector<RecordPtr>>(const std::string& job, int64_t after,
                                                                         int limit, size_t bytes)>;

  // `clock` must outlive the hub.
  WatchHub(const Limits& limits, const Clock* clock, WatchTokens tokens, LogReader reader);
  ~WatchHub();  // Shutdown

  uint64_t NewId();
  // Starts the watch `id` of `job`, whose log ends at `last_sequence` now. Called on the core's thread, in order with
  // Publish. On an error nothing was started: OUT_OF_RANGE for the token, RESOURCE_EXHAUSTED when there are too many
  // watches, UNAVAILABLE at shutdown.
  absl::Status Add(uint64_t id, const ham::v1::Job& job, int64_t last_sequence, const WatchRequest& request,
                   std::shared_ptr<WatchSink> sink);
  // The response of this watch left (ok), or its stream broke. Any thread.
  void Written(uint64_t id, bool ok);
  // The reader went away. Any thread.
  void Cancel(uint64_t id);

  // New durable records of a job, and its new row where it changed. Core's thread.
  void Publish(const std::string& job, const std::vector<RecordPtr>& records, const JobRow* changed);

  // Ends all watches with UNAVAILABLE and their token, and joins the thread. Idempotent.
  void Shutdown();

  size_t watches() const;

 private:
  struct Entry {  // a watched job
    ham::v1::Job job;
    int64_t last_sequence = 0;
    int64_t state_version = 1;  // grows with each change of state
    std::deque<RecordPtr> ring;
    size_t ring_bytes = 0;
    std::set<uint64_t> watches;
  };
  struct Watch {
    std::string job;
    int64_t cursor = 0;  // sequence of the last record looked at
    int64_t until = 0;   // where it ends; INT64_MAX while following
    std::set<int> kinds;
    std::shared_ptr<WatchSink> sink;
    int64_t sent_version = 0;  // Entry.state_version of the last Job sent
    int64_t sent_cursor = -1;  // of the last token sent
    bool in_flight = false;
    std::optional<absl::Status> end;
    absl::Duration due = absl::InfiniteDuration();
  };

  void Run();
  void Step(uint64_t id) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetDue(uint64_t id, Watch* watch, absl::Duration due) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Finish(uint64_t id, const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<RecordPtr> FromRing(const Entry& entry, int64_t after, int64_t until) const;
  absl::Status EndStatus(const Watch& watch, const absl::Status& status) const;

  const Limits limits_;
  const Clock* const clock_;
  const WatchTokens tokens_;
  const LogReader reader_;

  mutable absl::Mutex mutex_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, Watch> watches_ ABSL_GUARDED_BY(mutex_);
  std::set<std::pair<absl::Duration, uint64_t>> timers_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  absl::CondVar changed_;
  std::thread thread_;
};

}  // namespace ham::server

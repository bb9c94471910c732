// Sends what is in the spools of ranks, and takes it out once the coordinator has it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/backoff.h"
#include "worker/agent/assignments.h"
#include "worker/agent/coordinator_link.h"
#include "worker/agent/spool.h"

namespace ham::agent {

// Any thread may call any method; none but Close blocks.
class ReportStream {
 public:
  // Called on the stream's thread; they must not block.
  struct Events {
    std::function<void(const RankId&)> flushed;  // nothing waits in the spool at this moment
    std::function<void(const RankId&)> fenced;   // its records are refused; they are not sent again
  };

  // `link` must outlive it. Nothing is sent before Connected.
  ReportStream(const CoordinatorLink* link, const Backoff::Options& backoff, Events events);
  ~ReportStream();  // Close
  ReportStream(const ReportStream&) = delete;
  ReportStream& operator=(const ReportStream&) = delete;

  void Add(const RankId& id, std::shared_ptr<Spool> spool);
  void Remove(const RankId& id);
  // Some spool has new records.
  void Wake();
  // The link has a new session or channel: tries at once.
  void Connected();
  // No event comes after it. Not from an event.
  void Close();

 private:
  using Stream = grpc::ClientReaderWriter<ham::v1::ReportRequest, ham::v1::ReportResponse>;
  struct Batch {
    RankId id;
    std::shared_ptr<Spool> spool;
    ham::v1::ReportRequest request;
  };

  void Run();
  // One connection: sends until it breaks or Close.
  absl::Status RunStream();
  absl::Status Exchange(Stream* stream, const Batch& batch);
  // The next records to send, rank by rank in turn; nullopt if there are none.
  std::optional<Batch> NextBatch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Waits for records. False when closed.
  bool AwaitBatch(std::optional<Batch>* batch);
  void LogRetry(const absl::Status& status);

  const CoordinatorLink* const link_;
  const Backoff::Options backoff_options_;
  const Events events_;
  std::mt19937_64 random_;  // thread_ only
  bool logged_ = false;     // thread_ only

  absl::Mutex mutex_;
  std::map<RankId, std::shared_ptr<Spool>> spools_ ABSL_GUARDED_BY(mutex_);
  RankId last_ ABSL_GUARDED_BY(mutex_);  // whose turn was last
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  bool connected_ ABSL_GUARDED_BY(mutex_) = false;  // ever
  bool reconnect_ ABSL_GUARDED_BY(mutex_) = false;  // since the last try
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;  // of the open stream
  absl::Mutex join_mutex_;
  std::thread thread_ ABSL_GUARDED_BY(join_mutex_);
};

}  // namespace ham::agent

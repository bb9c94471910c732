// Records of one rank that the coordinator does not hold yet, on disk.
//
// A folder of segment files, oldest first; a segment is a row of (u32 little-endian length, SpooledRecord). A spool
// lives as long as its rank: records of an attempt are worth nothing to the next session of the worker.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "ham/v1/worker_service.pb.h"

namespace ham::agent {

// Any thread may call any method.
class Spool {
 public:
  // Makes the folder, which must not hold a spool. Above `limit` bytes the oldest log text gives way, and a line says
  // how much is missing; metrics and findings never do. `segment_bytes`: size at which a new file is begun.
  static absl::StatusOr<std::unique_ptr<Spool>> Open(const std::string& folder, size_t limit,
                                                     size_t segment_bytes = 4 << 20);
  ~Spool();
  Spool(const Spool&) = delete;
  Spool& operator=(const Spool&) = delete;

  // Gives the record its sequence, from 1. ResourceExhausted for a full disk, Unavailable for other errors of it; the
  // record is then not in the spool.
  absl::Status Append(ham::v1::SpooledRecord record);
  // The oldest records not acknowledged, in order: at least one if there are any, and no more than `bytes` of them
  // otherwise. DataLoss when a file does not hold what was written.
  absl::StatusOr<std::vector<ham::v1::SpooledRecord>> Pending(size_t bytes);
  // Everything up to `sequence` may go.
  void Acknowledge(int64_t sequence);
  bool empty() const;
  size_t bytes() const;

 private:
  struct Segment {
    std::string path;
    int fd = -1;
    size_t bytes = 0;
    size_t read = 0;            // bytes of acknowledged records at its begin
    size_t log_bytes = 0;       // of records with log text
    int64_t last_sequence = 0;  // 0: none
  };

  Spool(std::string folder, size_t limit, size_t segment_bytes)
      : folder_(std::move(folder)), limit_(limit), segment_bytes_(segment_bytes) {}

  absl::Status AddSegment() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static absl::Status Write(Segment* segment, const ham::v1::SpooledRecord& record);
  static absl::StatusOr<ham::v1::SpooledRecord> Read(const Segment& segment, size_t at, size_t* next);
  // Takes the log text out of the oldest segment that has any.
  absl::Status Shrink() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status DropLogs(Segment* segment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RemoveFront() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string folder_;
  const size_t limit_;
  const size_t segment_bytes_;
  mutable absl::Mutex mutex_;
  std::deque<Segment> segments_ ABSL_GUARDED_BY(mutex_);  // the last one is written to
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t next_sequence_ ABSL_GUARDED_BY(mutex_) = 1;
  int64_t acknowledged_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t next_file_ ABSL_GUARDED_BY(mutex_) = 1;
};

}  // namespace ham::agent

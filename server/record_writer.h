// Completes, signs and stores records of evaluations, on a thread of its own: the intervals of a large one take
// seconds.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/evaluation/evaluation_record.h"
#include "proto/evaluation/signing_key.h"
#include "server/artifact_store.h"

namespace ham::server {

class RecordWriter {
 public:
  // `artifacts` outlives it. A full or failed disk is tried again every `retry`.
  RecordWriter(SigningKey key, ArtifactStore* artifacts, absl::Duration retry);
  ~RecordWriter();  // Shutdown

  // Any thread; does not block. done(SHA-256 of the file, or MakeRecord's error) comes on the writer's thread, not
  // after Shutdown. The same record gives the same file.
  void Write(EvaluationRecord record, std::function<void(absl::StatusOr<std::string>)> done);

  // Drops what waits, and joins the thread. Idempotent.
  void Shutdown();

 private:
  struct Item {
    EvaluationRecord record;
    std::function<void(absl::StatusOr<std::string>)> done;
  };

  void Run();
  absl::StatusOr<std::string> FileOf(const EvaluationRecord& record) const;
  // Tries until it is stored. False when closed.
  bool StoreFile(const std::string& digest, const std::string& file);

  const SigningKey key_;
  ArtifactStore* const artifacts_;
  const absl::Duration retry_;

  absl::Mutex mutex_;
  std::deque<Item> waiting_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace ham::server

#include "server/record_writer.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "proto/evaluation/record_file.h"
#include "proto/sha256.h"

namespace ham::server {
namespace {

absl::Status Put(ArtifactStore* artifacts, const std::string& digest, const std::string& file) {
  const absl::StatusOr<ArtifactStore::Held> held = artifacts->Query(digest);
  if (!held.ok() || held->complete) return held.status();
  if (held->offset <= static_cast<int64_t>(file.size())) {
    const std::string_view rest = std::string_view(file).substr(static_cast<size_t>(held->offset));
    if (absl::Status status = artifacts->Put(digest, held->offset, rest); !status.ok()) return status;
  }
  return artifacts->Commit(digest, static_cast<int64_t>(file.size()));
}

}  // namespace

RecordWriter::RecordWriter(SigningKey key, ArtifactStore* artifacts, absl::Duration retry)
    : key_(std::move(key)), artifacts_(artifacts), retry_(retry) {
  thread_ = std::thread([this] { Run(); });
}

RecordWriter::~RecordWriter() { Shutdown(); }

void RecordWriter::Write(EvaluationRecord record, std::function<void(absl::StatusOr<std::string>)> done) {
  absl::MutexLock lock(&mutex_);
  if (!closed_) waiting_.push_back({std::move(record), std::move(done)});
}

void RecordWriter::Shutdown() {
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void RecordWriter::Run() {
  const auto due = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !waiting_.empty() || closed_; };
  while (true) {
    Item item;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&due));
      if (closed_) return;
      item = std::move(waiting_.front());
      waiting_.pop_front();
    }
    absl::StatusOr<std::string> file = FileOf(item.record);
    if (!file.ok()) {
      item.done(file.status());
      continue;
    }
    const std::string digest = Sha256Hex(*file);
    if (!StoreFile(digest, *file)) return;
    item.done(digest);
  }
}

absl::StatusOr<std::string> RecordWriter::FileOf(const EvaluationRecord& record) const {
  const absl::StatusOr<EvaluationRecord> made = MakeRecord(record);
  if (!made.ok()) return made.status();
  return SignRecordFile(UnsignedRecordFile(*made), key_);
}

bool RecordWriter::StoreFile(const std::string& digest, const std::string& file) {
  while (true) {
    const absl::Status status = Put(artifacts_, digest, file);
    if (!status.ok()) {
      spdlog::warn("A record cannot be stored yet: {}", std::string(status.message()));
    }
    absl::MutexLock lock(&mutex_);
    if (closed_) return false;
    if (status.ok()) return true;
    if (mutex_.AwaitWithTimeout(absl::Condition(&closed_), retry_)) return false;
  }
}

}  // namespace ham::server

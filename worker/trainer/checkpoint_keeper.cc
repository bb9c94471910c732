#include "worker/trainer/checkpoint_keeper.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_format.h"

namespace ham::trainer {
namespace {

constexpr size_t kMostOnDisk = 2;

}  // namespace

absl::StatusOr<std::optional<std::string>> CheckpointKeeper::Store(const Checkpoint& checkpoint, bool last) {
  {
    absl::MutexLock lock(&mutex_);
    const auto waiting =
        std::count_if(entries_.begin(), entries_.end(), [](const Entry& e) { return !e.acknowledged; });
    if (static_cast<size_t>(waiting) >= kMostOnDisk && !last) return std::nullopt;
    // Room for one more; what is gone from disk is no longer of interest.
    for (auto entry = entries_.begin(); entry != entries_.end() && entries_.size() >= kMostOnDisk;) {
      if (!entry->acknowledged) {
        ++entry;
        continue;
      }
      std::error_code ignored;  // a directory left behind costs disk, nothing else
      std::filesystem::remove_all(entry->directory, ignored);
      entry = entries_.erase(entry);
    }
  }
  const std::string directory = absl::StrFormat("%s/epoch-%06d", parent_, checkpoint.info.epoch);
  auto manifest = WriteCheckpoint(directory, checkpoint);
  if (!manifest.ok()) return manifest.status();
  absl::MutexLock lock(&mutex_);
  entries_.push_back({directory, *manifest, !uploads_, absl::OkStatus()});
  return std::optional<std::string>(*std::move(manifest));
}

void CheckpointKeeper::Acknowledge(const std::string& manifest, const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  for (Entry& entry : entries_) {
    if (entry.manifest != manifest) continue;
    entry.acknowledged = true;
    entry.upload = status;
  }
}

absl::Status CheckpointKeeper::WaitForNewest(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  const auto done = [this]()
                        ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return entries_.empty() || entries_.back().acknowledged; };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&done), timeout)) {
    return absl::DeadlineExceededError(
        absl::StrFormat("the checkpoint was not stored within %s", absl::FormatDuration(timeout)));
  }
  return entries_.empty() ? absl::OkStatus() : entries_.back().upload;
}

}  // namespace ham::trainer

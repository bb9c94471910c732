#include "worker/trainer/checkpoint_keeper.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"

namespace ham::trainer {
namespace {

constexpr size_t kMostOnDisk = 2;
constexpr char kPrefix[] = "epoch-";
constexpr char kBeingWritten[] = ".new-";  // WriteCheckpoint's, before six random characters

}  // namespace

void CheckpointKeeper::AdoptOlder() {
  if (std::exchange(adopted_, true)) return;
  std::map<int64_t, std::string> found;  // by epoch
  std::vector<std::filesystem::path> leftovers;
  std::error_code ignored;  // what cannot be read here is an error when it is written
  for (const auto& entry : std::filesystem::directory_iterator(parent_, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    const size_t end = name.find_first_not_of("0123456789", sizeof(kPrefix) - 1);
    int64_t epoch = 0;
    if (end == std::string::npos && absl::SimpleAtoi(name.substr(sizeof(kPrefix) - 1), &epoch)) {
      found[epoch] = entry.path().string();
    } else if (end != std::string::npos && name.compare(end, sizeof(kBeingWritten) - 1, kBeingWritten) == 0) {
      leftovers.push_back(entry.path());
    }
  }
  for (const auto& path : leftovers) std::filesystem::remove_all(path, ignored);
  for (const auto& [epoch, directory] : found) entries_.push_back({directory, "", true, absl::OkStatus()});
}

absl::StatusOr<std::optional<std::string>> CheckpointKeeper::Store(const Checkpoint& checkpoint, bool last) {
  const std::string directory = absl::StrFormat("%s/%s%06d", parent_, kPrefix, checkpoint.info.epoch);
  {
    absl::MutexLock lock(&mutex_);
    AdoptOlder();
    const auto waiting =
        std::count_if(entries_.begin(), entries_.end(), [](const Entry& e) { return !e.acknowledged; });
    if (static_cast<size_t>(waiting) >= kMostOnDisk && !last) return std::nullopt;
    // One of this epoch is replaced, not removed.
    std::erase_if(entries_, [&](const Entry& e) { return e.acknowledged && e.directory == directory; });
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

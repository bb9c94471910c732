#include "worker/trainer/checkpoint_keeper.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <map>
#include <string_view>
#include <system_error>
#include <vector>

#include <nlohmann/json.hpp>
#include "absl/strings/str_format.h"
#include "proto/atomic_file.h"

namespace ham::trainer {
namespace {

constexpr size_t kNewest = 2;
constexpr std::string_view kEpochPart = "epoch-", kIterationPart = "-iteration-";
constexpr std::string_view kBeingWritten = ".new-";  // WriteCheckpoint's, before six random characters
constexpr char kMarksFile[] = "best.json";

constexpr std::pair<const char*, double Scores::*> kMarks[] = {
    {"robust_accuracy", &Scores::robust_accuracy},
    {"worst_class_robust_accuracy", &Scores::worst_class_robust_accuracy}};

std::string NameOf(int epoch) { return absl::StrFormat("%s%06d", kEpochPart, epoch); }

std::string NameOf(const Checkpoint& checkpoint) {
  const std::string epoch = NameOf(checkpoint.info.epoch);
  return checkpoint.within_epoch ? absl::StrFormat("%s%s%08d", epoch, kIterationPart, checkpoint.info.iteration)
                                 : epoch;
}

// Takes `prefix` and the digits after it from the front of `text`. Nothing if it does not begin so.
std::optional<int64_t> TakeNumber(std::string_view prefix, std::string_view* text) {
  if (!text->starts_with(prefix)) return std::nullopt;
  const std::string_view digits = text->substr(prefix.size());
  int64_t number = 0;
  if (digits.empty() || digits[0] < '0' || digits[0] > '9') return std::nullopt;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc()) return std::nullopt;
  text->remove_prefix(static_cast<size_t>(end - text->data()));
  return number;
}

}  // namespace

void CheckpointKeeper::Adopt() {
  if (std::exchange(adopted_, true)) return;
  std::map<std::pair<int64_t, int64_t>, std::string> found;  // by epoch and by iteration, 0 at the epoch's end
  std::vector<std::filesystem::path> leftovers;
  std::error_code ignored;  // what cannot be read here is an error when it is written
  for (const auto& entry : std::filesystem::directory_iterator(parent_, ignored)) {
    const std::string name = entry.path().filename().string();
    std::string_view rest = name;
    const auto epoch = TakeNumber(kEpochPart, &rest);
    if (!epoch) continue;
    const auto iteration = TakeNumber(kIterationPart, &rest);
    if (rest.empty()) {
      found[{*epoch, iteration.value_or(0)}] = name;
    } else if (rest.starts_with(kBeingWritten)) {
      leftovers.push_back(entry.path());
    }
  }
  for (const auto& path : leftovers) std::filesystem::remove_all(path, ignored);
  for (const auto& [when, name] : found) {
    const auto [epoch, iteration] = when;
    entries_.push_back(
        {.name = name, .acknowledged = true, .on_schedule = IsOnSchedule(epoch, /*within_epoch=*/iteration > 0)});
  }
  AdoptMarks();
}

// The file appears whole: what is not as written was not written here, and counts as none.
void CheckpointKeeper::AdoptMarks() {
  std::ifstream file(PathOf(kMarksFile));
  const nlohmann::json stored = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  for (size_t i = 0; i < marks_.size(); ++i) {
    const auto entry = stored.is_object() ? stored.find(kMarks[i].first) : stored.end();
    if (entry == stored.end() || !entry->is_object()) continue;
    const auto name = entry->find("checkpoint"), value = entry->find("value");
    if (name == entry->end() || value == entry->end() || !name->is_string() || !value->is_number()) continue;
    if (std::any_of(entries_.begin(), entries_.end(), [&](const Entry& e) { return *name == e.name; })) {
      marks_[i] = {name->get<std::string>(), value->get<double>()};
    }
  }
}

absl::Status CheckpointKeeper::WriteMarks() const {
  nlohmann::json out;
  for (size_t i = 0; i < marks_.size(); ++i) {
    out[kMarks[i].first] = {{"checkpoint", marks_[i].name}, {"value", marks_[i].value}};
  }
  return WriteFileAtomically(PathOf(kMarksFile), out.dump(2) + "\n", 0644);
}

bool CheckpointKeeper::IsOnSchedule(int64_t epoch, bool within_epoch) const {
  return keep_every_epochs_ > 0 && !within_epoch && epoch % keep_every_epochs_ == 0;
}

void CheckpointKeeper::Collect(size_t newest) {
  for (size_t i = 0; i + newest < entries_.size();) {
    const Entry& entry = entries_[i];
    const bool best =
        std::any_of(marks_.begin(), marks_.end(), [&](const Mark& mark) { return mark.name == entry.name; });
    if (!entry.acknowledged || entry.on_schedule || best) {
      ++i;
      continue;
    }
    std::error_code ignored;  // a directory left behind costs disk, nothing else
    std::filesystem::remove_all(PathOf(entry.name), ignored);
    entries_.erase(entries_.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

absl::StatusOr<std::optional<std::string>> CheckpointKeeper::Store(const Checkpoint& checkpoint, bool last) {
  const std::string name = NameOf(checkpoint);
  {
    absl::MutexLock lock(&mutex_);
    Adopt();
    const auto waiting =
        std::count_if(entries_.begin(), entries_.end(), [](const Entry& e) { return !e.acknowledged; });
    if (static_cast<size_t>(waiting) >= kNewest && !last) return std::nullopt;
    // One of this name is replaced, not removed.
    std::erase_if(entries_, [&](const Entry& e) { return e.acknowledged && e.name == name; });
    Collect(kNewest - 1);
  }
  auto manifest = WriteCheckpoint(PathOf(name), checkpoint);
  if (!manifest.ok()) return manifest.status();
  absl::MutexLock lock(&mutex_);
  entries_.push_back({.name = name,
                      .manifest = *manifest,
                      .acknowledged = !uploads_,
                      .on_schedule = IsOnSchedule(checkpoint.info.epoch, checkpoint.within_epoch)});
  return std::optional<std::string>(*std::move(manifest));
}

absl::Status CheckpointKeeper::Score(const Scores& scores) {
  const std::string name = NameOf(scores.epoch);
  absl::MutexLock lock(&mutex_);
  Adopt();
  if (std::none_of(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.name == name; })) {
    return absl::OkStatus();
  }
  bool changed = false;
  for (size_t i = 0; i < marks_.size(); ++i) {
    const double value = scores.*kMarks[i].second;
    // A resumed run judges the epoch anew that it did anew.
    if (!marks_[i].name.empty() && marks_[i].name != name && value <= marks_[i].value) continue;
    marks_[i] = {name, value};
    changed = true;
  }
  if (!changed) return absl::OkStatus();
  if (absl::Status status = WriteMarks(); !status.ok()) return status;
  Collect(kNewest);  // after the file: one that it names is there
  return absl::OkStatus();
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

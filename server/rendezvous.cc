#include "server/rendezvous.h"

#include "absl/strings/str_cat.h"

namespace ham::server {
namespace {

absl::Status Closed() { return absl::UnavailableError("the coordinator stops; try again"); }

}  // namespace

absl::Status RendezvousTable::Set(const std::string& job, int attempt, const std::string& key,
                                  const std::string& value) {
  if (key.empty() || key.size() > bounds_.key_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("key has ", key.size(), " bytes, 1 to ", bounds_.key_bytes, " are allowed"));
  }
  if (value.size() > bounds_.value_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("value has ", value.size(), " bytes, up to ", bounds_.value_bytes, " are allowed"));
  }
  std::vector<Done> woken;
  {
    absl::MutexLock lock(&mutex_);
    if (closed_) return Closed();
    const auto found = attempts_.find({job, attempt});
    size_t replaced = 0;
    size_t held = 0;
    bool exists = false;
    if (found != attempts_.end()) {
      const auto old = found->second.values.find(key);
      exists = old != found->second.values.end();
      if (exists) replaced = key.size() + old->second.size();
      held = found->second.bytes;
      if (!exists && found->second.values.size() >= bounds_.keys) {
        return absl::ResourceExhaustedError(absl::StrCat("the attempt has ", bounds_.keys, " rendezvous keys already"));
      }
    }
    const size_t size = key.size() + value.size();
    if (held - replaced + size > bounds_.bytes || total_bytes_ - replaced + size > bounds_.total_bytes) {
      return absl::ResourceExhaustedError("the memory for rendezvous keys is full");
    }
    Attempt& entry = attempts_[{job, attempt}];
    entry.values[key] = value;
    entry.bytes += size - replaced;
    total_bytes_ += size - replaced;
    const auto [first, last] = entry.waiters.equal_range(key);
    std::vector<uint64_t> ids;
    for (auto waiter = first; waiter != last; ++waiter) ids.push_back(waiter->second);
    for (const uint64_t id : ids) woken.push_back(TakeWaiter(id));
  }
  for (const Done& done : woken) done(value);
  return absl::OkStatus();
}

uint64_t RendezvousTable::Get(const std::string& job, int attempt, const std::string& key, Done done) {
  absl::StatusOr<std::string> now = Closed();
  {
    absl::MutexLock lock(&mutex_);
    const auto found = attempts_.find({job, attempt});
    if (closed_) {
      // Answered below.
    } else if (found != attempts_.end() && found->second.values.count(key) != 0) {
      now = found->second.values.at(key);
    } else if (key.empty() || key.size() > bounds_.key_bytes) {
      now = absl::InvalidArgumentError(
          absl::StrCat("key has ", key.size(), " bytes, 1 to ", bounds_.key_bytes, " are allowed"));
    } else if (waiters_.size() >= bounds_.waiters) {
      now = absl::ResourceExhaustedError("too many ranks wait for rendezvous keys; try again");
    } else {
      const uint64_t id = next_waiter_++;
      attempts_[{job, attempt}].waiters.emplace(key, id);
      waiters_[id] = {{job, attempt}, key, std::move(done)};
      return id;
    }
  }
  done(std::move(now));
  return 0;
}

// Removes it everywhere.
RendezvousTable::Done RendezvousTable::TakeWaiter(uint64_t id) {
  const auto found = waiters_.find(id);
  Waiter waiter = std::move(found->second);
  waiters_.erase(found);
  const auto attempt = attempts_.find(waiter.attempt);
  if (attempt == attempts_.end()) return std::move(waiter.done);
  const auto [first, last] = attempt->second.waiters.equal_range(waiter.key);
  for (auto entry = first; entry != last; ++entry) {
    if (entry->second != id) continue;
    attempt->second.waiters.erase(entry);
    break;
  }
  if (attempt->second.waiters.empty() && attempt->second.values.empty()) attempts_.erase(attempt);
  return std::move(waiter.done);
}

void RendezvousTable::Cancel(uint64_t waiter) {
  Done done;
  {
    absl::MutexLock lock(&mutex_);
    if (waiters_.count(waiter) == 0) return;
    done = TakeWaiter(waiter);
  }
  done(absl::CancelledError("the caller no longer waits"));
}

void RendezvousTable::EndAttempt(const std::string& job, int attempt) {
  std::vector<Done> woken;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = attempts_.find({job, attempt});
    if (found == attempts_.end()) return;
    total_bytes_ -= found->second.bytes;
    const auto waiters = std::move(found->second.waiters);
    attempts_.erase(found);
    for (const auto& [key, id] : waiters) woken.push_back(TakeWaiter(id));
  }
  for (const Done& done : woken) {
    done(absl::AbortedError(absl::StrCat("attempt ", attempt, " of ", job, " has ended")));
  }
}

void RendezvousTable::Shutdown() {
  std::map<uint64_t, Waiter> woken;
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
    woken.swap(waiters_);
    attempts_.clear();
    total_bytes_ = 0;
  }
  for (const auto& [id, waiter] : woken) waiter.done(Closed());
}

size_t RendezvousTable::attempts() const {
  absl::MutexLock lock(&mutex_);
  return attempts_.size();
}

}  // namespace ham::server

// The jobs that /metrics shows: those that are not over, and those that ended a short time ago.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "ham/v1/job.pb.h"
#include "server/coordinator.h"
#include "server/job_picture.h"

namespace ham::server {

// Owned by the loop's thread. Is told what is durable only.
class JobPictures {
 public:
  // A job stays for `after_end`.
  explicit JobPictures(absl::Duration after_end) : after_end_(after_end) {}

  // A row of the store at the start of the process.
  void Restore(const JobRow& row, Now now);
  // A new row, or one that has changed.
  void Note(const JobRow& row, absl::Duration now);
  // Of a job that is shown; nothing happens for another one.
  void NoteSpec(const std::string& job, const ham::v1::JobSpec& spec);
  void NoteMetrics(const std::string& job, const ham::v1::MetricPoint& point);
  // Up to `most` jobs whose spec is not known, what runs first.
  std::vector<std::string> WithoutSpec(size_t most) const;
  // Its spec cannot be had.
  void GiveUpSpec(const std::string& job);

  // Jobs whose time is over go.
  void Expire(absl::Duration now);
  absl::Duration NextExpiry() const { return ends_.empty() ? absl::InfiniteDuration() : ends_.begin()->first; }

  // Up to `most`: those at work, then those that ended, then those that wait; each in submit order.
  std::vector<std::shared_ptr<const JobPicture>> Newest(size_t most) const;
  size_t size() const { return by_order_.size(); }
  // Jobs that wait for slots, and since when the oldest of them does (steady; the infinite future if there is none).
  size_t waiting() const { return waiting_.size(); }
  absl::Duration OldestWait() const { return waiting_.empty() ? absl::InfiniteDuration() : waiting_.begin()->first; }

 private:
  using Order = std::tuple<int, int64_t, std::string>;  // rank of its state, submit_index, job
  struct Entry {
    Order order;
    absl::Duration waits_since = absl::InfiniteDuration();  // steady; infinite: it does not wait
  };

  void Place(const JobRow& row, absl::Duration since);
  void Remove(const std::string& job);
  // Its picture, which may be altered: a copy takes the place of the one that snapshots share.
  JobPicture* Change(const std::string& job);

  const absl::Duration after_end_;
  std::map<std::string, Entry> entries_;  // by job
  std::map<Order, std::shared_ptr<const JobPicture>> by_order_;
  std::set<std::pair<absl::Duration, std::string>> waiting_;
  std::set<Order> without_spec_;
  std::multimap<absl::Duration, std::string> ends_;
};

}  // namespace ham::server

#include "server/metric_stream.h"

#include <algorithm>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "google/rpc/error_details.pb.h"
#include "proto/job_state.h"
#include "proto/rpc_status.h"
#include "proto/utf8.h"
#include "server/job_view.h"

namespace ham::server {
namespace {

constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr int64_t kForever = std::numeric_limits<int64_t>::max();

std::string IdOf(const std::string& job) { return job.substr(job.rfind('/') + 1); }

int KindOf(const ham::v1::JobRecord& record) {
  switch (record.kind_case()) {
    case ham::v1::JobRecord::kEvent:
      return ham::v1::EVENT;
    case ham::v1::JobRecord::kMetric:
      return ham::v1::METRIC;
    case ham::v1::JobRecord::kLog:
      return ham::v1::LOG;
    case ham::v1::JobRecord::kFinding:
      return ham::v1::FINDING;
    default:
      return ham::v1::RECORD_KIND_UNSPECIFIED;
  }
}

absl::Status WatchesStop() { return absl::UnavailableError("the coordinator stops; watch again with the last token"); }

}  // namespace

absl::Status WithToken(const absl::Status& status, const std::string& reason, const std::string& token) {
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain("ham");
  (*info.mutable_metadata())["token"] = token;
  absl::Status result = status;
  result.SetPayload(kErrorInfoUrl, absl::Cord(info.SerializeAsString()));
  return result;
}

std::string WatchTokens::Make(const std::string& job, int64_t sequence) const {
  return absl::StrCat(log_epoch_, ".", IdOf(job), ".", sequence);
}

absl::StatusOr<int64_t> WatchTokens::Read(const std::string& job, const std::string& token) const {
  if (token.empty()) return 0;
  const std::vector<std::string> parts = absl::StrSplit(token, '.');
  int64_t sequence = -1;
  const bool good = parts.size() == 3 && parts[0] == log_epoch_ && parts[1] == IdOf(job) &&
                    absl::SimpleAtoi(parts[2], &sequence) && sequence >= 0;
  if (good) return sequence;
  return Foreign(job, token);
}

absl::Status WatchTokens::Foreign(const std::string& job, const std::string& token) const {
  return WithToken(absl::OutOfRangeError(absl::StrCat("token \"", Shown(token), "\" is not one of job ", job,
                                                      " in this log; start from the beginning with an empty token")),
                   "FOREIGN_TOKEN", Make(job, 0));
}

WatchHub::WatchHub(const Limits& limits, const Clock* clock, WatchTokens tokens, LogReader reader)
    : limits_(limits), clock_(clock), tokens_(std::move(tokens)), reader_(std::move(reader)), thread_([this] {
        Run();
      }) {}

WatchHub::~WatchHub() { Shutdown(); }

uint64_t WatchHub::NewId() {
  absl::MutexLock lock(&mutex_);
  return next_id_++;
}

absl::Status WatchHub::Add(uint64_t id, const ham::v1::Job& job, int64_t last_sequence, const WatchRequest& request,
                           std::shared_ptr<WatchSink> sink) {
  const std::string& name = job.name();
  const absl::StatusOr<int64_t> cursor = tokens_.Read(name, request.token);
  if (!cursor.ok()) return cursor.status();
  if (*cursor > last_sequence) return tokens_.Foreign(name, request.token);
  absl::MutexLock lock(&mutex_);
  if (closed_) return WithToken(WatchesStop(), "STOPPING", request.token);
  if (watches_.size() >= limits_.watches) {
    return WithReason(absl::ResourceExhaustedError(absl::StrCat("this coordinator serves ", limits_.watches,
                                                                " watches already; try again later")),
                      "TOO_MANY_WATCHES");
  }
  auto [entry, first] = entries_.try_emplace(name);
  if (first) {
    entry->second.job = job;
    entry->second.last_sequence = last_sequence;
  }
  entry->second.watches.insert(id);
  Watch& watch = watches_[id];
  watch.job = name;
  watch.cursor = *cursor;
  watch.until = request.follow ? kForever : last_sequence;
  watch.kinds = request.kinds;
  watch.sink = std::move(sink);
  SetDue(id, &watch, clock_->Read().steady);
  return absl::OkStatus();
}

void WatchHub::Written(uint64_t id, bool ok) {
  absl::MutexLock lock(&mutex_);
  const auto found = watches_.find(id);
  if (found == watches_.end()) return;
  found->second.in_flight = false;
  if (!ok && !found->second.end) found->second.end = absl::CancelledError("the reader went away");
  SetDue(id, &found->second, clock_->Read().steady);
}

void WatchHub::Cancel(uint64_t id) { Written(id, false); }

void WatchHub::Publish(const std::string& job, const std::vector<RecordPtr>& records, const JobRow* changed) {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(job);
  if (found == entries_.end()) return;
  Entry& entry = found->second;
  if (changed != nullptr) {
    if (changed->state != entry.job.state()) ++entry.state_version;
    FillJob(*changed, &entry.job);
  }
  for (const RecordPtr& record : records) {
    if (record->sequence() <= entry.last_sequence) continue;
    entry.last_sequence = record->sequence();
    entry.ring.push_back(record);
    entry.ring_bytes += record->ByteSizeLong();
  }
  while (entry.ring.size() > 1 && entry.ring_bytes > limits_.watch_ring_bytes) {
    entry.ring_bytes -= entry.ring.front()->ByteSizeLong();
    entry.ring.pop_front();
  }
  const absl::Duration due = clock_->Read().steady + limits_.watch_batching;
  for (const uint64_t id : entry.watches) {
    Watch& watch = watches_.at(id);
    if (!watch.in_flight && watch.due > due) SetDue(id, &watch, due);
  }
}

void WatchHub::Shutdown() {
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
    changed_.Signal();
  }
  if (thread_.joinable()) thread_.join();
}

size_t WatchHub::watches() const {
  absl::MutexLock lock(&mutex_);
  return watches_.size();
}

// ---- the hub's thread --------------------------------------------------------------------------------------

void WatchHub::SetDue(uint64_t id, Watch* watch, absl::Duration due) {
  if (watch->due != absl::InfiniteDuration()) timers_.erase({watch->due, id});
  watch->due = due;
  if (due == absl::InfiniteDuration()) return;
  const auto inserted = timers_.insert({due, id}).first;
  if (inserted == timers_.begin()) changed_.Signal();
}

void WatchHub::Run() {
  while (true) {
    uint64_t id = 0;
    {
      absl::MutexLock lock(&mutex_);
      while (true) {
        if (closed_) {
          if (watches_.empty()) return;
          id = watches_.begin()->first;
          watches_.begin()->second.end = WatchesStop();
          break;
        }
        if (timers_.empty()) {
          changed_.Wait(&mutex_);
          continue;
        }
        const absl::Duration wait = timers_.begin()->first - clock_->Read().steady;
        if (wait <= absl::ZeroDuration()) {
          id = timers_.begin()->second;
          break;
        }
        changed_.WaitWithTimeout(&mutex_, wait);
      }
    }
    Step(id);
  }
}

absl::Status WatchHub::EndStatus(const Watch& watch, const absl::Status& status) const {
  const std::string token = tokens_.Make(watch.job, std::max<int64_t>(watch.sent_cursor, 0));
  if (absl::IsUnavailable(status)) return WithToken(status, "STOPPING", token);
  if (absl::IsResourceExhausted(status)) return WithToken(status, "READER_TOO_SLOW", token);
  return status;
}

void WatchHub::Finish(uint64_t id, const absl::Status& status) {
  std::shared_ptr<WatchSink> sink;
  absl::Status end;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = watches_.find(id);
    if (found == watches_.end()) return;
    SetDue(id, &found->second, absl::InfiniteDuration());
    end = EndStatus(found->second, status);
    sink = std::move(found->second.sink);
    const auto entry = entries_.find(found->second.job);
    entry->second.watches.erase(id);
    if (entry->second.watches.empty()) entries_.erase(entry);
    watches_.erase(found);
  }
  sink->End(end);
}

std::vector<RecordPtr> WatchHub::FromRing(const Entry& entry, int64_t after, int64_t until) const {
  std::vector<RecordPtr> records;
  if (entry.ring.empty() || entry.ring.front()->sequence() > after + 1) return records;
  const size_t start = static_cast<size_t>(after + 1 - entry.ring.front()->sequence());
  for (size_t i = start; i < entry.ring.size() && entry.ring[i]->sequence() <= until; ++i) {
    records.push_back(entry.ring[i]);
    if (records.size() >= static_cast<size_t>(limits_.watch_page_records)) break;
  }
  return records;
}

// One response, or one page without anything to show, or the end.
void WatchHub::Step(uint64_t id) {
  std::string job;
  int64_t after = 0;
  int64_t until = 0;
  std::vector<RecordPtr> records;
  std::optional<absl::Status> end;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = watches_.find(id);
    if (found == watches_.end()) return;
    Watch& watch = found->second;
    const Entry& entry = entries_.at(watch.job);
    SetDue(id, &watch, absl::InfiniteDuration());
    job = watch.job;
    after = watch.cursor;
    until = std::min(watch.until, entry.last_sequence);
    end = watch.end;
    if (!end && watch.in_flight) {  // its stall timer
      if (after < entry.last_sequence) {
        end = absl::ResourceExhaustedError(absl::StrCat("the reader took nothing for ",
                                                        absl::FormatDuration(limits_.watch_stall),
                                                        "; watch again with the last token"));
      } else {
        SetDue(id, &watch, clock_->Read().steady + limits_.watch_stall);
        return;
      }
    }
    if (!end && after < until) records = FromRing(entry, after, until);
  }
  if (end) return Finish(id, *end);
  if (after < until && records.empty()) {
    absl::StatusOr<std::vector<RecordPtr>> page =
        reader_(job, after, limits_.watch_page_records, limits_.watch_response_bytes);
    if (!page.ok()) return Finish(id, page.status());
    records = *std::move(page);
    if (records.empty() || records.front()->sequence() != after + 1) {
      return Finish(id, absl::DataLossError(absl::StrCat("record ", after + 1, " of job ", job, " is missing")));
    }
  }

  ham::v1::WatchJobResponse response;
  std::shared_ptr<WatchSink> sink;
  bool over = false;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = watches_.find(id);
    if (found == watches_.end()) return;
    Watch& watch = found->second;
    if (watch.end) {  // meanwhile
      SetDue(id, &watch, clock_->Read().steady);
      return;
    }
    const Entry& entry = entries_.at(job);
    size_t bytes = 0;
    for (const RecordPtr& record : records) {
      if (record->sequence() > until) break;
      if (watch.kinds.empty() || watch.kinds.count(KindOf(*record)) != 0) {
        const size_t size = record->ByteSizeLong();
        if (bytes > 0 && bytes + size > limits_.watch_response_bytes) break;
        bytes += size;
        *response.add_records() = *record;
      }
      watch.cursor = record->sequence();
    }
    const bool at_end = watch.cursor >= std::min(watch.until, entry.last_sequence);
    over = at_end && (watch.until != kForever || IsFinal(entry.job.state()));
    if (watch.sent_version != entry.state_version) {
      *response.mutable_job() = entry.job;
      watch.sent_version = entry.state_version;
    }
    const bool bookmark = over && watch.sent_cursor != watch.cursor;
    if (response.has_job() || response.records_size() > 0 || bookmark) {
      response.set_token(tokens_.Make(job, watch.cursor));
      watch.sent_cursor = watch.cursor;
      watch.in_flight = true;
      sink = watch.sink;
      SetDue(id, &watch, clock_->Read().steady + limits_.watch_stall);
      over = false;  // comes again once this has left
    } else if (!at_end) {
      SetDue(id, &watch, clock_->Read().steady);
    }
  }
  if (sink != nullptr) return sink->Send(std::move(response));
  if (over) Finish(id, absl::OkStatus());
}

}  // namespace ham::server

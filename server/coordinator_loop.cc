#include "server/coordinator_loop.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/job_state.h"
#include "proto/log.h"
#include "proto/rpc_status.h"
#include "server/job_view.h"

namespace ham::server {
namespace {

using ham::v1::Job;

constexpr absl::Duration kRequestLife = absl::Hours(7 * 24);
constexpr absl::Duration kSnapshotPeriod = absl::Seconds(1);
// Specs of older jobs that are read for each new picture of the jobs: milliseconds.
constexpr size_t kSpecsAtATime = 64;

absl::Status Stopping() {
  return WithReason(absl::UnavailableError("the coordinator stops; try again in a moment"), "STOPPING");
}

CoordinatorOptions CoreOptions(const CoordinatorLoop::Options& options) {
  CoordinatorOptions core;
  core.lease = options.lease;
  core.heartbeat = options.heartbeat;
  core.kept_checkpoints = options.keep_checkpoints;
  // A stop is told of up to two beats after it, and the verdict waits for one.
  const absl::Duration unknown = std::max(options.hang_bound - 3 * options.heartbeat, options.hang_bound / 2);
  core.hang = {.unknown = unknown, .least = options.hang_bound / 2, .busy = 10 * options.hang_bound};
  return core;
}

void LogEvent(const EventRow& row) {
  const ham::v1::JobEvent& event = row.event;
  const std::string state =
      event.from_state() == event.to_state() ? "" : absl::StrCat(Job::State_Name(event.to_state()), ": ");
  Log(event.to_state() == Job::FAILED ? spdlog::level::warn : spdlog::level::info,
      {.job = row.job, .attempt = row.attempt, .reason = event.reason()},
      absl::StrCat(row.job, ": ", state, event.message()));
}

}  // namespace

absl::Status StoreFailed() {
  return WithReason(absl::UnavailableError("the coordinator could not write its state directory and is read-only until "
                                           "it can; look for a full or failed disk, then try again"),
                    "STORE_FAILED");
}

int64_t CoordinatorLoop::View::LastSequence(const std::string& job) const {
  const auto found = loop_->last_sequence_.find(job);
  return found == loop_->last_sequence_.end() ? 0 : found->second;
}

absl::Status CoordinatorLoop::View::CheckActive(const ham::v1::Fence& fence) const {
  if (const absl::Status status = CheckFence(fence); !status.ok()) return status;
  const Job::State state = core().FindJob(fence.job())->state;
  if (state == Job::STARTING || state == Job::RUNNING) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("attempt ", fence.attempt(), " of ", fence.job(), " is being stopped"));
}

CoordinatorLoop::CoordinatorLoop(const Options& options, const Parts& parts, Store::Contents contents)
    : options_(options),
      parts_(parts),
      core_(CoreOptions(options), parts.policy),
      pictures_(options.limits.metrics_after_end) {
  const Now now = parts_.clock->Read();
  reopen_at_ = timers_from_ = due_ = counters_.start = now.steady;
  jobs_time_ = -absl::InfiniteDuration();
  counters_.lease = options_.lease;
  last_sequence_ = std::move(contents.last_sequence);
  for (const JobRow& row : contents.jobs) {
    by_index_[row.submit_index] = row.name;
    states_[row.name] = row.state;
    ++counters_.jobs_by_state[row.state];
    pictures_.Restore(row, now);
  }
  core_.Restore(std::move(contents.jobs), std::move(contents.workers), now);
  PublishSnapshot(now.steady);
  thread_ = std::thread([this] { Run(); });
}

CoordinatorLoop::~CoordinatorLoop() { Stop(); }

// ---- the queue ---------------------------------------------------------------------------------------------

void CoordinatorLoop::Post(Item item) {
  absl::Status refusal;
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) {
      refusal = Stopping();
    } else if (item.refuse != nullptr && (queue_.size() >= options_.limits.queued_requests ||
                                          queued_bytes_ + item.bytes > options_.limits.queued_bytes)) {
      refusal = WithReason(absl::ResourceExhaustedError("the coordinator has too much to do; try again in a moment"),
                           "QUEUE_FULL");
    } else {
      queued_bytes_ += item.bytes;
      queue_.push_back(std::move(item));
      waiting_.store(queue_.size(), std::memory_order_relaxed);
      if (queue_.size() == 1) wake_.Signal();
      return;
    }
  }
  if (item.refuse != nullptr) item.refuse(refusal);
}

bool CoordinatorLoop::TakeBatch(std::vector<Item>* batch, bool* drained) {
  // While the store fails each request stands alone, so that one that needs it does not undo the others.
  const size_t most = store_failed_ ? 1 : options_.limits.batch_requests;
  const absl::Duration begin = parts_.clock->Read().steady;
  due_ = std::max(begin, NextWake(begin));
  *drained = true;
  absl::MutexLock lock(&mutex_);
  while (queue_.empty() && !stopping_) {
    const absl::Duration now = parts_.clock->Read().steady;
    if (due_ <= now) return true;
    wake_.WaitWithTimeout(&mutex_, due_ - now);
  }
  while (!queue_.empty() && batch->size() < most) {
    queued_bytes_ -= queue_.front().bytes;
    batch->push_back(std::move(queue_.front()));
    queue_.pop_front();
  }
  waiting_.store(queue_.size(), std::memory_order_relaxed);
  *drained = queue_.empty();
  return !batch->empty() || !stopping_;
}

absl::Duration CoordinatorLoop::NextWake(absl::Duration now) const {
  absl::Duration wake = absl::InfiniteDuration();
  if (store_failed_) {
    wake = reopen_at_;
  } else {
    wake = std::max(core_.NextTimer(), timers_from_);
    // Often enough to notice that the thread stood still, whenever silence may be judged.
    if (wake != absl::InfiniteDuration()) wake = std::min(wake, now + options_.lease / 4);
  }
  if (snapshot_dirty_) wake = std::min(wake, std::max(now, jobs_time_ + kSnapshotPeriod));
  wake = std::min(wake, pictures_.NextExpiry());
  if (!evaluations_.empty() && !store_failed_) wake = std::min(wake, settle_at_);
  return wake;
}

void CoordinatorLoop::Run() {
  std::vector<Item> batch;
  bool drained = false;
  while (TakeBatch(&batch, &drained)) {
    RunBatch(std::move(batch), drained);
    batch = {};
  }
  for (const auto& [id, stream] : streams_) stream->End(Stopping());
  streams_.clear();
}

void CoordinatorLoop::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    wake_.Signal();
  }
  if (thread_.joinable()) thread_.join();
}

// ---- a batch -----------------------------------------------------------------------------------------------

Now CoordinatorLoop::NoteRunning() {
  const Now now = parts_.clock->Read();
  const absl::Duration late = now.steady - due_;
  due_ = now.steady;
  if (late > options_.lease / 2) {
    spdlog::warn("The coordinator stood still for {}; silence of workers counts from now on.",
                 absl::FormatDuration(late));
    timers_from_ = now.steady + options_.lease;
    snapshot_dirty_ = true;
  }
  return now;
}

void CoordinatorLoop::RunBatch(std::vector<Item> batch, bool drained) {
  const absl::Duration begin = NoteRunning().steady;
  if (begin >= reopen_at_ && store_failed_) TryReopen();
  std::vector<Completion> completions;
  completions.reserve(batch.size());
  for (Item& item : batch) {
    if (store_failed_ && item.durable) {
      completions.push_back([&item](const absl::Status&) { item.refuse(StoreFailed()); });
    } else {
      completions.push_back(item.run());
    }
  }
  const Now timer = NoteRunning();
  const absl::Duration now = timer.steady;
  if (!store_failed_ && drained && std::max(core_.NextTimer(), timers_from_) <= now) {
    ApplyEvent(TimerFired{}, timer).IgnoreError();
  }

  const absl::Status status = Commit();
  Effects effects;
  Transaction transaction = std::exchange(transaction_, {});
  if (status.ok()) {
    effects = core_.CommitBatch();
    events_seen_ = 0;
    Act(std::move(effects), std::move(transaction));
  } else {
    Rollback();
  }
  for (const Completion& complete : completions) complete(status);
  batch_streams_.clear();
  if (std::exchange(frozen_, core_.FrozenUntil() > now) != (core_.FrozenUntil() > now)) {
    spdlog::warn(frozen_ ? "Many workers are silent: no rank is given up until more of them are heard."
                         : "Enough workers are heard again.");
  }
  if (!evaluations_.empty() && !store_failed_ && now >= settle_at_) SettleEvaluations();
  std::set<std::string> tell = std::exchange(unsent_, {});
  for (const std::string& id : tell) SendDesired(id);
  const bool late = snapshot_dirty_ && now >= jobs_time_ + kSnapshotPeriod;
  if (snapshot_due_ || late || pictures_.NextExpiry() <= now) PublishSnapshot(now);
  ++counters_.batches;
  counters_.batch_seconds += absl::ToDoubleSeconds(NoteRunning().steady - begin);
}

absl::Status CoordinatorLoop::Commit() {
  const Effects& pending = core_.pending();
  transaction_.jobs = pending.jobs;
  transaction_.workers = pending.workers;
  for (const auto& [key, sequence] : batch_spools_) {
    transaction_.spools.push_back({std::get<0>(key), std::get<1>(key), std::get<2>(key), sequence});
  }
  if (transaction_.empty()) return absl::OkStatus();
  if (store_failed_) return StoreFailed();
  const absl::Duration begin = parts_.clock->Read().steady;
  const absl::Status status = parts_.store->Commit(transaction_);
  if (status.ok()) {
    ++counters_.commits;
    counters_.commit_seconds += absl::ToDoubleSeconds(parts_.clock->Read().steady - begin);
    return status;
  }
  spdlog::error("The store failed; the coordinator is read-only: {}", std::string(status.message()));
  ++counters_.failed_commits;
  store_failed_ = true;
  snapshot_due_ = true;
  reopen_at_ = parts_.clock->Read().steady + options_.limits.store_reopen;
  return StoreFailed();
}

void CoordinatorLoop::Rollback() {
  core_.RollbackBatch();
  events_seen_ = 0;
  batch_spools_.clear();
}

void CoordinatorLoop::TryReopen() {
  const absl::Status status = parts_.store->Reopen();
  const absl::Duration now = parts_.clock->Read().steady;  // a large file takes its time
  if (!status.ok()) {
    spdlog::warn("The store cannot be opened again yet: {}", std::string(status.message()));
    reopen_at_ = now + options_.limits.store_reopen;
    return;
  }
  spdlog::info("The store is open again.");
  store_failed_ = false;
  snapshot_due_ = true;
  timers_from_ = now + options_.lease;
  for (const auto& [worker_id, session, stream] : std::exchange(undone_ends_, {})) {
    Disconnected(worker_id, session, stream);
  }
  SettleEvaluations();
}

// After the commit: what is durable may be seen.
void CoordinatorLoop::Act(Effects effects, Transaction transaction) {
  for (const auto& [key, sequence] : batch_spools_) spools_[key] = sequence;
  batch_spools_.clear();
  for (const EventRow& row : effects.events) {
    counters_.events.Add(row.event.reason());
    LogEvent(row);
    if (row.event.to_state() == Job::STARTING && row.event.from_state() != Job::STARTING) ++counters_.attempts_started;
  }
  std::set<std::string> settle = effects.pools_changed;
  for (const auto& [name, records] : transaction.records) {
    for (const auto& record : records) {
      if (record->has_metric()) pictures_.NoteMetrics(name, record->metric());
      if (!record->has_finding()) continue;
      NoteFinding(name, record->finding());
      settle.insert(name);
    }
  }
  const absl::Duration now = parts_.clock->Read().steady;
  for (const auto& [name, row] : effects.jobs) {
    pictures_.Note(row, now);
    by_index_[row.submit_index] = name;
    auto [state, first] = states_.try_emplace(name, row.state);
    if (!first) --counters_.jobs_by_state[state->second];
    ++counters_.jobs_by_state[row.state];
    state->second = row.state;
    if (row.pool) settle.insert(name);
    if (IsFinal(row.state)) specs_.erase(name);
  }
  for (const auto& [name, content] : transaction.contents) pictures_.NoteSpec(name, content.spec);
  std::set<std::string> changed;
  for (const auto& [name, records] : transaction.records) {
    last_sequence_[name] = records.back()->sequence();
    changed.insert(name);
  }
  for (const auto& [name, row] : effects.jobs) changed.insert(name);
  for (const std::string& name : changed) {
    const auto row = effects.jobs.find(name);
    const auto records = transaction.records.find(name);
    parts_.hub->Publish(name, records == transaction.records.end() ? std::vector<RecordPtr>{} : records->second,
                        row == effects.jobs.end() ? nullptr : &row->second);
  }
  for (const auto& [job, attempt] : effects.ended_attempts) parts_.rendezvous->EndAttempt(job, attempt);
  for (const auto& [name, row] : effects.jobs) {
    if (row.gang.empty())
      spools_.erase(spools_.lower_bound({name, 0, 0}), spools_.lower_bound({name, row.attempt + 1, 0}));
  }
  unsent_.insert(effects.desired_changed.begin(), effects.desired_changed.end());
  for (const std::string& name : settle) SettleEvaluation(name);
  if (!effects.jobs.empty() || !effects.workers.empty() || !effects.desired_changed.empty()) snapshot_due_ = true;
}

absl::Status CoordinatorLoop::ApplyEvent(const Event& event, Now now) {
  const absl::Status status = core_.Apply(event, now, parts_.jitter());
  snapshot_dirty_ = true;
  // Records take their place in the log in the order in which things happened.
  const std::vector<EventRow>& events = core_.pending().events;
  for (; events_seen_ < events.size(); ++events_seen_) {
    const EventRow& row = events[events_seen_];
    ham::v1::JobRecord record;
    *record.mutable_time() = ToTimestamp(row.time);
    record.set_attempt(row.attempt);
    *record.mutable_event() = row.event;
    AddRecord(row.job, std::move(record));
  }
  return status;
}

void CoordinatorLoop::AddRecord(const std::string& job, ham::v1::JobRecord record) {
  auto& records = transaction_.records[job];
  const auto last = last_sequence_.find(job);
  const int64_t held = last == last_sequence_.end() ? 0 : last->second;
  record.set_sequence(held + static_cast<int64_t>(records.size()) + 1);
  records.push_back(std::make_shared<const ham::v1::JobRecord>(std::move(record)));
}

// ---- jobs --------------------------------------------------------------------------------------------------

void CoordinatorLoop::CreateJob(NewJob job, std::function<void(absl::StatusOr<JobRow>)> done) {
  const size_t bytes = job.content.spec.ByteSizeLong();
  auto shared = std::make_shared<const NewJob>(std::move(job));
  Post({.run = [this, shared, done]() -> Completion {
          absl::StatusOr<std::string> name = ApplyCreate(*shared);
          return [this, name = std::move(name), done](const absl::Status& commit) {
            if (!name.ok()) return done(name.status());
            if (!commit.ok()) return done(commit);
            done(*core_.FindJob(*name));  // jobs are never removed
          };
        },
        .refuse = done,
        .bytes = bytes,
        .durable = true});
}

absl::StatusOr<std::string> CoordinatorLoop::ApplyCreate(const NewJob& job) {
  const std::string& principal = job.row.creator;
  const absl::Time now = parts_.clock->Read().wall;
  if (!job.request_id.empty()) {
    std::optional<RequestRow> used;
    for (const RequestRow& row : transaction_.requests) {
      if (row.principal == principal && row.request_id == job.request_id) used = row;
    }
    if (!used) {
      absl::StatusOr<std::optional<RequestRow>> stored =
          parts_.store->GetRequest(principal, job.request_id, now - kRequestLife);
      if (!stored.ok()) return StoreFailed();
      used = *std::move(stored);
    }
    if (used && used->request_hash == job.request_hash) return used->job;
    if (used) {
      return WithReason(absl::AlreadyExistsError(absl::StrCat("request_id ", job.request_id, " was used for job ",
                                                              used->job, " with another request; use a new one")),
                        "REQUEST_ID_REUSED");
    }
  }
  if (const absl::Status status = ApplyEvent(SubmitJob{job.row}); !status.ok()) return status;
  transaction_.contents[job.row.name] = job.content;
  if (!job.request_id.empty()) {
    transaction_.requests.push_back({principal, job.request_id, job.request_hash, job.row.name, now});
  }
  return job.row.name;
}

void CoordinatorLoop::Apply(Event event, Done done) {
  const bool durable = std::holds_alternative<CancelJob>(event) || std::holds_alternative<CheckpointCommitted>(event) ||
                       std::holds_alternative<JobBroken>(event);
  auto shared = std::make_shared<const Event>(std::move(event));
  Post({.run = [this, shared, done]() -> Completion {
          const absl::Status status = ApplyEvent(*shared);
          return [status, done](const absl::Status& commit) { done(status.ok() ? commit : status); };
        },
        .refuse = done,
        .durable = durable});
}

void CoordinatorLoop::Inspect(std::function<void(const absl::StatusOr<View>&)> done) {
  // In the second half, so that it sees nothing that may still be undone.
  Post({.run = [this, done]() -> Completion { return [this, done](const absl::Status&) { done(View(this)); }; },
        .refuse = [done](const absl::Status& status) { done(status); }});
}

// ---- the snapshot ------------------------------------------------------------------------------------------

// Of jobs that this process has not made.
void CoordinatorLoop::LearnSpecs() {
  if (store_failed_) return;
  for (const std::string& job : pictures_.WithoutSpec(kSpecsAtATime)) {
    const absl::StatusOr<JobContent> content = parts_.store->GetContent(job);
    if (content.ok()) {
      pictures_.NoteSpec(job, content->spec);
    } else {
      pictures_.GiveUpSpec(job);  // it is said where the job is to start
    }
  }
}

void CoordinatorLoop::PublishSnapshot(absl::Duration now) {
  pictures_.Expire(now);
  snapshot_due_ = false;
  if (now >= jobs_time_ + kSnapshotPeriod) {
    LearnSpecs();
    const size_t most = options_.limits.job_series / kFewestSeries;
    counters_.jobs = std::make_shared<const std::vector<std::shared_ptr<const JobPicture>>>(pictures_.Newest(most));
    counters_.jobs_left_out = pictures_.size() - counters_.jobs->size();
    jobs_time_ = now;
    snapshot_dirty_ = !pictures_.WithoutSpec(1).empty();
  } else {
    snapshot_dirty_ = true;  // the jobs may have changed
  }
  auto snapshot = std::make_shared<ClusterSnapshot>(counters_);
  snapshot->workers = core_.Workers();
  std::map<std::string, std::vector<ham::v1::GpuReading>> gpus;
  for (const WorkerView& worker : snapshot->workers) {
    const auto found = gpus_.find(worker.row.worker_id);
    if (worker.state != ham::v1::Worker::UNREACHABLE && found != gpus_.end()) gpus.insert(gpus_.extract(found));
  }
  gpus_ = std::move(gpus);  // what others said is old
  snapshot->gpus = gpus_;
  snapshot->waiting_jobs = pictures_.waiting();
  snapshot->oldest_wait = pictures_.OldestWait();
  snapshot->leases_held_until = std::max(core_.FrozenUntil(), timers_from_);
  snapshot->store_failed = store_failed_;
  parts_.snapshot->Set(std::move(snapshot));
}

}  // namespace ham::server

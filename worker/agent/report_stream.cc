#include "worker/agent/report_stream.h"

#include <spdlog/spdlog.h>

#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/rpc_status.h"

namespace ham::agent {
namespace {

constexpr size_t kBatchBytes = 1 << 20;

}  // namespace

ReportStream::ReportStream(const CoordinatorLink* link, const Backoff::Options& backoff, Events events)
    : link_(link), backoff_options_(backoff), events_(std::move(events)), random_(std::random_device()()) {
  absl::MutexLock lock(&join_mutex_);
  thread_ = std::thread([this] { Run(); });
}

ReportStream::~ReportStream() { Close(); }

void ReportStream::Add(const RankId& id, std::shared_ptr<Spool> spool) {
  absl::MutexLock lock(&mutex_);
  spools_[id] = std::move(spool);
  woken_ = true;
}

void ReportStream::Remove(const RankId& id) {
  absl::MutexLock lock(&mutex_);
  spools_.erase(id);
}

void ReportStream::Wake() {
  absl::MutexLock lock(&mutex_);
  woken_ = true;
}

void ReportStream::Connected() {
  absl::MutexLock lock(&mutex_);
  connected_ = true;
  reconnect_ = true;
}

void ReportStream::Close() {
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
    if (context_ != nullptr) context_->TryCancel();
  }
  absl::MutexLock lock(&join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void ReportStream::Run() {
  Backoff backoff(backoff_options_);
  std::uniform_real_distribution<double> unit(0.0, 1.0);
  {
    absl::MutexLock lock(&mutex_);
    const auto begin = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return connected_ || closed_; };
    mutex_.Await(absl::Condition(&begin));
  }
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (closed_) return;
      reconnect_ = false;
    }
    const absl::Status status = RunStream();
    absl::MutexLock lock(&mutex_);
    if (closed_) return;
    if (status.ok()) {
      backoff.Reset();
      continue;
    }
    LogRetry(status);
    const auto again = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return reconnect_ || closed_; };
    if (mutex_.AwaitWithTimeout(absl::Condition(&again), backoff.Next(unit(random_)))) backoff.Reset();
  }
}

absl::Status ReportStream::RunStream() {
  std::optional<Batch> batch;
  if (!AwaitBatch(&batch)) return absl::OkStatus();
  grpc::ClientContext context;
  SetToken(link_->config(), &context);
  {
    absl::MutexLock lock(&mutex_);
    if (closed_) return absl::OkStatus();
    context_ = &context;
  }
  const auto stub = ham::v1::WorkerService::NewStub(MakeChannel(link_->config(), link_->endpoint(), "report"));
  const std::unique_ptr<Stream> stream = stub->Report(&context);
  absl::Status status;
  bool progress = false;
  do {
    status = Exchange(stream.get(), *batch);
    progress = progress || status.ok();
  } while (status.ok() && AwaitBatch(&batch));
  if (!status.ok()) context.TryCancel();
  stream->WritesDone();
  const absl::Status end = FromGrpc(stream->Finish());
  {
    absl::MutexLock lock(&mutex_);
    context_ = nullptr;
  }
  if (progress) logged_ = false;
  return absl::IsUnavailable(status) && !end.ok() && !absl::IsCancelled(end) ? end : status;
}

absl::Status ReportStream::Exchange(Stream* stream, const Batch& batch) {
  ham::v1::ReportResponse response;
  if (!stream->Write(batch.request) || !stream->Read(&response)) {
    return absl::UnavailableError("the connection was lost");
  }
  if (response.job() != batch.id.job || response.attempt() != batch.id.attempt || response.rank() != batch.id.rank) {
    return absl::InternalError("the coordinator answered for another rank");
  }
  if (response.fenced()) {
    Remove(batch.id);
    events_.fenced(batch.id);
    return absl::OkStatus();
  }
  const int64_t sent = batch.request.records(batch.request.records_size() - 1).spool_sequence();
  if (response.acknowledged_sequence() < sent) {
    return absl::InternalError(absl::StrCat("the coordinator acknowledged record ", response.acknowledged_sequence(),
                                            " where ", sent, " was sent"));
  }
  batch.spool->Acknowledge(sent);
  if (batch.spool->empty()) events_.flushed(batch.id);
  return absl::OkStatus();
}

std::optional<ReportStream::Batch> ReportStream::NextBatch() {
  auto it = spools_.upper_bound(last_);
  for (size_t i = 0; i < spools_.size(); ++i, ++it) {
    if (it == spools_.end()) it = spools_.begin();
    absl::StatusOr<std::vector<ham::v1::SpooledRecord>> records = it->second->Pending(kBatchBytes);
    if (!records.ok()) {
      spdlog::error("{}; its records are lost", std::string(records.status().message()));
      it->second->Acknowledge(std::numeric_limits<int64_t>::max());
      events_.flushed(it->first);
      continue;
    }
    if (records->empty()) continue;
    last_ = it->first;
    Batch batch{it->first, it->second, {}};
    *batch.request.mutable_fence() = link_->Get(it->first.job, it->first.attempt).fence;
    batch.request.set_rank(it->first.rank);
    for (ham::v1::SpooledRecord& record : *records) *batch.request.add_records() = std::move(record);
    return batch;
  }
  return std::nullopt;
}

bool ReportStream::AwaitBatch(std::optional<Batch>* batch) {
  const auto due = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return woken_ || closed_; };
  absl::MutexLock lock(&mutex_);
  while (!closed_) {
    woken_ = false;
    *batch = NextBatch();
    if (*batch) return true;
    mutex_.Await(absl::Condition(&due));
  }
  return false;
}

void ReportStream::LogRetry(const absl::Status& status) {
  if (std::exchange(logged_, true)) return;
  spdlog::warn("metrics and logs cannot be sent: {}; they are kept and sent later", std::string(status.message()));
}

}  // namespace ham::agent

#include "tests/integration/scripted_worker.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "proto/version.h"

namespace ham::testing {

using ham::v1::ObservedRank;

namespace {
const absl::Duration kWait = absl::FromChrono(kBound);
}  // namespace

ScriptedWorker::ScriptedWorker(const TestServer& server, const std::string& name, int slots)
    : config_(server.worker()), stub_(ham::v1::WorkerService::NewStub(server.NewChannel())) {
  registration.set_protocol_version(kProtocolVersion);
  registration.set_build_id(BuildId());
  registration.set_worker_id(absl::StrCat("id-", name));
  registration.set_worker_name(name);
  registration.set_incarnation("first");
  for (int i = 0; i < slots; ++i) {
    ham::v1::Slot* slot = registration.add_slots();
    slot->set_index(i);
    slot->set_device("cpu");
  }
  ham::v1::DataSet* data_set = registration.add_data_sets();
  data_set->set_name("fashion-mnist");
  data_set->set_digest(std::string(64, 'd'));
}

ScriptedWorker::~ScriptedWorker() { Disconnect(); }

void ScriptedWorker::Dial() {
  Disconnect();
  {
    absl::MutexLock lock(&mutex_);
    welcome_.reset();
    desired_.reset();
    end_.reset();
  }
  context_ = std::make_unique<grpc::ClientContext>();
  SetToken(config_, context_.get());
  stream_ = stub_->Control(context_.get());
  reader_ = std::thread([this] { Read(); });
}

absl::Status ScriptedWorker::Connect() {
  Dial();
  ham::v1::AgentMessage message;
  *message.mutable_register_() = registration;
  Send(message);
  absl::MutexLock lock(&mutex_);
  const auto told = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return end_ || (welcome_ && desired_); };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&told), kWait)) return absl::DeadlineExceededError("no welcome");
  return end_.value_or(absl::OkStatus());
}

void ScriptedWorker::Send(const ham::v1::AgentMessage& message) { stream_->Write(message); }

void ScriptedWorker::Beat(const std::vector<ObservedRank>& observed) {
  ham::v1::AgentMessage message;
  {
    absl::MutexLock lock(&mutex_);
    if (desired_) message.mutable_beat()->set_desired_version(desired_->version());
  }
  for (const ObservedRank& rank : observed) *message.mutable_beat()->add_observed() = rank;
  Send(message);
}

void ScriptedWorker::Read() {
  ham::v1::CoordinatorMessage message;
  while (stream_->Read(&message)) {
    absl::MutexLock lock(&mutex_);
    if (message.has_welcome()) welcome_ = message.welcome();
    if (message.has_desired()) desired_ = message.desired();
  }
  const grpc::Status status = stream_->Finish();
  absl::MutexLock lock(&mutex_);
  end_ = FromGrpc(status);
}

absl::Status ScriptedWorker::WaitForEnd() {
  absl::MutexLock lock(&mutex_);
  const auto ended = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return end_.has_value(); };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&ended), kWait)) return absl::DeadlineExceededError("goes on");
  return *end_;
}

void ScriptedWorker::Disconnect() {
  if (!reader_.joinable()) return;
  context_->TryCancel();
  reader_.join();
}

ham::v1::Welcome ScriptedWorker::welcome() const {
  absl::MutexLock lock(&mutex_);
  return welcome_.value_or(ham::v1::Welcome());
}

std::optional<std::vector<ham::v1::Assignment>> ScriptedWorker::WaitForAssignments(size_t count) {
  absl::MutexLock lock(&mutex_);
  const auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return desired_ && static_cast<size_t>(desired_->assignments_size()) == count;
  };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&there), kWait)) return std::nullopt;
  return std::vector<ham::v1::Assignment>(desired_->assignments().begin(), desired_->assignments().end());
}

std::optional<ham::v1::Assignment> ScriptedWorker::Take(const std::string& job, ObservedRank::State state,
                                                        int attempt) {
  ham::v1::Assignment taken;
  {
    absl::MutexLock lock(&mutex_);
    const auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      if (!desired_) return false;
      for (const ham::v1::Assignment& assignment : desired_->assignments()) {
        if (assignment.job() == job && assignment.attempt() == attempt) taken = assignment;
      }
      return taken.job() == job;
    };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&there), kWait)) return std::nullopt;
  }
  Beat({Observed(taken, state)});
  return taken;
}

ham::v1::Fence ScriptedWorker::FenceOf(const std::string& job, int attempt) const {
  const ham::v1::Welcome mine = welcome();
  ham::v1::Fence fence;
  fence.set_cluster_id(mine.cluster_id());
  fence.set_session(mine.session());
  fence.set_job(job);
  fence.set_attempt(attempt);
  return fence;
}

ObservedRank Observed(const ham::v1::Assignment& assignment, ObservedRank::State state) {
  ObservedRank rank;
  rank.set_job(assignment.job());
  rank.set_attempt(assignment.attempt());
  rank.set_rank(assignment.rank());
  rank.set_state(state);
  return rank;
}

ObservedRank Exited(const ham::v1::Assignment& assignment, bool success, ham::v1::FailureClass failure_class) {
  ObservedRank rank = Observed(assignment, ObservedRank::EXITED);
  rank.mutable_exit()->set_success(success);
  if (!success) {
    rank.mutable_exit()->set_exit_code(3);
    rank.mutable_exit()->set_failure_class(failure_class);
    rank.mutable_exit()->set_message("it broke.");
  }
  return rank;
}

ham::v1::Assignment RunJob(Client* client, ScriptedWorker* worker) {
  const std::string name = client->MustCreate();
  const auto rank = worker->Take(name, ham::v1::ObservedRank::RUNNING);
  EXPECT_TRUE(rank.has_value());
  EXPECT_TRUE(client->WaitForState(name, ham::v1::Job::RUNNING).ok());
  return rank.value_or(ham::v1::Assignment());
}

ReportCall::ReportCall(ScriptedWorker* worker) {
  SetBound(&context_);
  SetToken(worker->config(), &context_);
  stream_ = worker->stub()->Report(&context_);
}

ReportCall::~ReportCall() {
  if (ended_) return;
  stream_->WritesDone();
  stream_->Finish();
}

absl::StatusOr<ham::v1::ReportResponse> ReportCall::Send(const ham::v1::ReportRequest& request) {
  ham::v1::ReportResponse response;
  if (stream_->Write(request) && stream_->Read(&response)) return response;
  ended_ = true;
  const absl::Status end = FromGrpc(stream_->Finish());
  return end.ok() ? absl::UnknownError("the stream ended without an answer") : end;
}

ham::v1::SpooledRecord LogText(int64_t spool_sequence, const std::string& text) {
  ham::v1::SpooledRecord record;
  record.set_spool_sequence(spool_sequence);
  record.set_log_text(text);
  return record;
}

ham::v1::SpooledRecord Metric(int64_t spool_sequence, const ham::v1::MetricPoint& point) {
  ham::v1::SpooledRecord record;
  record.set_spool_sequence(spool_sequence);
  *record.mutable_metric() = point;
  return record;
}

}  // namespace ham::testing

// A worker whose every message is written by the test, over the real streams. What waits has a bound.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "tests/integration/test_server.h"

namespace ham::testing {

// One thread uses it; another of its own reads the control stream.
class ScriptedWorker {
 public:
  // Has `slots` CPU slots and the data set of SmallSpec.
  ScriptedWorker(const TestServer& server, const std::string& name, int slots = 1);
  ~ScriptedWorker();  // Disconnect

  // What Connect sends.
  ham::v1::RegisterWorker registration;

  // Opens the control stream and registers. OK once Welcome and the first assignments are here; else how the stream
  // ended.
  absl::Status Connect();
  // Opens it without a word.
  void Dial();
  void Send(const ham::v1::AgentMessage& message);
  // A beat that has seen the newest assignments.
  void Beat(const std::vector<ham::v1::ObservedRank>& observed);
  // How the stream ended; DEADLINE_EXCEEDED if it does not.
  absl::Status WaitForEnd();
  void Disconnect();

  ham::v1::Welcome welcome() const;
  // Waits until `count` assignments are desired.
  std::optional<std::vector<ham::v1::Assignment>> WaitForAssignments(size_t count);
  // Waits for one of this attempt of `job`, and reports its rank in `state`.
  std::optional<ham::v1::Assignment> Take(const std::string& job, ham::v1::ObservedRank::State state, int attempt = 1);

  ham::v1::Fence FenceOf(const std::string& job, int attempt) const;
  ham::v1::WorkerService::Stub* stub() { return stub_.get(); }
  const ConnectionConfig& config() const { return config_; }

 private:
  using Stream = grpc::ClientReaderWriter<ham::v1::AgentMessage, ham::v1::CoordinatorMessage>;
  void Read();

  const ConnectionConfig config_;
  const std::unique_ptr<ham::v1::WorkerService::Stub> stub_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<Stream> stream_;
  std::thread reader_;
  mutable absl::Mutex mutex_;
  std::optional<ham::v1::Welcome> welcome_ ABSL_GUARDED_BY(mutex_);
  std::optional<ham::v1::DesiredAssignments> desired_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
};

ham::v1::ObservedRank Observed(const ham::v1::Assignment& assignment, ham::v1::ObservedRank::State state);
ham::v1::ObservedRank Exited(const ham::v1::Assignment& assignment, bool success,
                             ham::v1::FailureClass failure_class = ham::v1::TRAINER_CRASH);

// A new job that runs on `worker`; an empty assignment, and a failed expectation, if it does not.
ham::v1::Assignment RunJob(Client* client, ScriptedWorker* worker);

// An open Report stream of a worker.
class ReportCall {
 public:
  explicit ReportCall(ScriptedWorker* worker);
  ~ReportCall();
  // The answer, or how the stream ended.
  absl::StatusOr<ham::v1::ReportResponse> Send(const ham::v1::ReportRequest& request);

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<ham::v1::ReportRequest, ham::v1::ReportResponse>> stream_;
  bool ended_ = false;
};

ham::v1::SpooledRecord LogText(int64_t spool_sequence, const std::string& text);
ham::v1::SpooledRecord Metric(int64_t spool_sequence, const ham::v1::MetricPoint& point);

}  // namespace ham::testing

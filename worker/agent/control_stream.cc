#include "worker/agent/control_stream.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/rpc_status.h"

namespace ham::agent {

constexpr absl::Duration kLogAgain = absl::Seconds(30);

// One stream. A hold keeps it open for writes from outside until reading has ended.
class ControlStream::Call final : public grpc::ClientBidiReactor<ham::v1::AgentMessage, ham::v1::CoordinatorMessage> {
 public:
  Call(int64_t stream, size_t endpoint, const Events& events) : stream_(stream), endpoint_(endpoint), events_(events) {}

  void Start(const ConnectionConfig& config) {
    SetToken(config, &context_);
    stub_ = ham::v1::WorkerService::NewStub(MakeChannel(config, endpoint_, "control"));
    stub_->async()->Control(&context_, this);
    AddHold();
    StartRead(&incoming_);
    StartCall();
  }

  int64_t stream() const { return stream_; }

  // `exits` of a beat.
  void Send(ham::v1::AgentMessage message, int64_t exits = 0) {
    absl::MutexLock lock(&mutex_);
    next_ = std::move(message);
    next_exits_ = exits;
    Pump();
  }
  void CloseWhenSent() {
    absl::MutexLock lock(&mutex_);
    closing_ = true;
    Pump();
  }
  void Cancel() { context_.TryCancel(); }

  // True once Welcome has come, or the call is over.
  bool AwaitWelcome(absl::Duration timeout) {
    absl::MutexLock lock(&mutex_);
    const auto answered = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return welcome_ || done_; };
    return mutex_.AwaitWithTimeout(absl::Condition(&answered), timeout);
  }
  bool AwaitDone(absl::Duration timeout) {
    absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(&done_), timeout);
  }
  bool welcome() {
    absl::MutexLock lock(&mutex_);
    return welcome_;
  }
  absl::Status status() {
    absl::MutexLock lock(&mutex_);
    return status_;
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      {
        absl::MutexLock lock(&mutex_);
        reading_ = false;
      }
      RemoveHold();
      return;
    }
    if (absl::Status status = Take(); !status.ok()) {
      {
        absl::MutexLock lock(&mutex_);
        broken_ = std::move(status);
      }
      context_.TryCancel();
    }
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    int64_t exits = 0;
    {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
      exits = outgoing_exits_;
      if (ok) Pump();
    }
    if (ok) events_.sent(exits);
  }

  void OnDone(const grpc::Status& status) override {
    absl::MutexLock lock(&mutex_);
    status_ = broken_.ok() ? FromGrpc(status) : broken_;
    done_ = true;
  }

 private:
  absl::Status Take() {
    const bool first = !welcome();
    if (first != incoming_.has_welcome()) {
      return absl::InternalError("the coordinator did not begin with `welcome`, or sent it twice");
    }
    if (first) {
      events_.connected(stream_, endpoint_, std::move(*incoming_.mutable_welcome()));
      absl::MutexLock lock(&mutex_);
      welcome_ = true;
    } else if (incoming_.has_desired()) {
      events_.desired(stream_, std::move(*incoming_.mutable_desired()));
    }
    return absl::OkStatus();
  }

  void Pump() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || !reading_ || writes_done_) return;
    if (next_) {
      outgoing_ = *std::exchange(next_, std::nullopt);
      outgoing_exits_ = next_exits_;
      writing_ = true;
      StartWrite(&outgoing_);
    } else if (closing_) {
      writes_done_ = true;
      StartWritesDone();
    }
  }

  const int64_t stream_;
  const size_t endpoint_;
  const Events& events_;
  grpc::ClientContext context_;
  std::unique_ptr<ham::v1::WorkerService::Stub> stub_;
  ham::v1::CoordinatorMessage incoming_;  // of the read in flight
  absl::Mutex mutex_;
  ham::v1::AgentMessage outgoing_ ABSL_GUARDED_BY(mutex_);
  std::optional<ham::v1::AgentMessage> next_ ABSL_GUARDED_BY(mutex_);
  int64_t outgoing_exits_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t next_exits_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status broken_ ABSL_GUARDED_BY(mutex_);  // by what the coordinator sent
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  bool reading_ ABSL_GUARDED_BY(mutex_) = true;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  bool writes_done_ ABSL_GUARDED_BY(mutex_) = false;
  bool welcome_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
};

ControlStream::ControlStream(const ConnectionConfig& config, const ControlOptions& options, Events events)
    : config_(config), options_(options), events_(std::move(events)), random_(std::random_device()()) {
  absl::MutexLock lock(&join_mutex_);
  thread_ = std::thread([this] { Run(); });
}

ControlStream::~ControlStream() { Close(absl::ZeroDuration()); }

void ControlStream::Register(int64_t stream, ham::v1::RegisterWorker registration) {
  ham::v1::AgentMessage message;
  registration.set_stream(stream);
  *message.mutable_register_() = std::move(registration);
  absl::MutexLock lock(&mutex_);
  if (call_ != nullptr && call_->stream() == stream) call_->Send(std::move(message));
}

void ControlStream::Beat(int64_t stream, ham::v1::Beat beat, int64_t exits) {
  ham::v1::AgentMessage message;
  *message.mutable_beat() = std::move(beat);
  absl::MutexLock lock(&mutex_);
  // Until Welcome came, the registration may still wait to be sent.
  if (call_ != nullptr && call_->stream() == stream && call_->welcome()) call_->Send(std::move(message), exits);
}

void ControlStream::Close(absl::Duration timeout) {
  std::shared_ptr<Call> call;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    call = call_;
  }
  if (call != nullptr) {
    call->CloseWhenSent();
    if (!call->AwaitDone(timeout)) call->Cancel();
  }
  absl::MutexLock lock(&join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void ControlStream::Run() {
  Backoff backoff(options_.backoff);
  absl::Time first_duplicate = absl::InfiniteFuture();
  std::uniform_real_distribution<double> unit(0.0, 1.0);
  size_t endpoint = 0;
  for (int64_t stream = 1;; ++stream) {
    bool registered = false;
    const absl::Status status = RunCall(stream, endpoint, &registered);
    if (registered) {
      backoff.Reset();
      first_duplicate = absl::InfiniteFuture();
      logged_.clear();
      events_.closed(stream);
    }
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
    }
    const std::optional<absl::Status> verdict = registered ? std::nullopt : Verdict(status, &first_duplicate);
    if (verdict) return events_.failed(*verdict);
    LogRetry(status, endpoint);
    if (!absl::IsAlreadyExists(status)) endpoint = (endpoint + 1) % config_.endpoints.size();
    absl::MutexLock lock(&mutex_);
    if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), backoff.Next(unit(random_)))) return;
  }
}

absl::Status ControlStream::RunCall(int64_t stream, size_t endpoint, bool* registered) {
  auto call = std::make_shared<Call>(stream, endpoint, events_);
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return absl::CancelledError("stopping");
    call->Start(config_);
    call_ = call;
  }
  events_.opening(stream);
  const bool answered = call->AwaitWelcome(options_.welcome_timeout);
  if (!answered) call->Cancel();
  call->AwaitDone(absl::InfiniteDuration());
  *registered = call->welcome();
  absl::MutexLock lock(&mutex_);
  call_ = nullptr;
  if (answered || *registered) return call->status();
  return absl::DeadlineExceededError(
      absl::StrCat("it did not answer within ", absl::FormatDuration(options_.welcome_timeout)));
}

std::optional<absl::Status> ControlStream::Verdict(const absl::Status& status, absl::Time* first_duplicate) const {
  const std::string text(status.message());
  switch (status.code()) {
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kInvalidArgument:
      return absl::Status(status.code(), absl::StrCat("the coordinator refused this worker: ", text));
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return absl::Status(status.code(), absl::StrCat("the coordinator refused the secret of --join (", text,
                                                      "): fetch the file worker-join from its state directory again"));
    case absl::StatusCode::kAlreadyExists:
      *first_duplicate = std::min(*first_duplicate, absl::Now());
      if (absl::Now() < *first_duplicate + options_.name_timeout) return std::nullopt;
      return absl::Status(status.code(), absl::StrCat("the coordinator refused this worker: ", text));
    default:
      return std::nullopt;
  }
}

void ControlStream::LogRetry(const absl::Status& status, size_t endpoint) {
  const std::string text = status.ok() ? "it closed the connection" : std::string(status.message());
  if (text == logged_ && absl::Now() < logged_time_ + kLogAgain) return;
  logged_ = text;
  logged_time_ = absl::Now();
  spdlog::warn("no connection to the coordinator at {}: {}; trying again", config_.endpoints[endpoint], text);
}

}  // namespace ham::agent

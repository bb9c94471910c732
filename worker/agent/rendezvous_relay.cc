#include "worker/agent/rendezvous_relay.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "proto/rpc_status.h"

namespace ham::agent {
namespace {

constexpr size_t kMostCalls = 1024;
constexpr absl::Duration kSetTimeout = absl::Seconds(25);  // the trainer waits 30 s

}  // namespace

struct RendezvousRelay::Call {
  CoordinatorLink::Connection connection;
  Done done;
  grpc::ClientContext context;
  ham::v1::SetRendezvousKeyRequest set;
  ham::v1::SetRendezvousKeyResponse set_response;
  ham::v1::GetRendezvousKeyRequest get;
  ham::v1::GetRendezvousKeyResponse get_response;
};

std::shared_ptr<RendezvousRelay::Call> RendezvousRelay::Begin(absl::Duration timeout, const Done& done) {
  auto call = std::make_shared<Call>();
  call->connection = link_->Get(job_, attempt_);
  call->done = done;
  SetToken(link_->config(), &call->context);
  call->context.set_wait_for_ready(true);  // a short break of the connection is not worth an attempt
  call->context.set_deadline(absl::ToChronoTime(absl::Now() + std::min(timeout, absl::Hours(24))));
  absl::Status refused;
  {
    absl::MutexLock lock(&mutex_);
    if (closed_) {
      refused = absl::CancelledError("the rank is being stopped");
    } else if (calls_.size() >= kMostCalls) {
      refused = absl::ResourceExhaustedError("too many rendezvous calls wait at once; at most 1024 are allowed");
    } else {
      calls_.insert(call);
      return call;
    }
  }
  done(refused);
  return nullptr;
}

void RendezvousRelay::Set(const std::string& key, const std::string& value, Done done) {
  const std::shared_ptr<Call> call = Begin(kSetTimeout, done);
  if (call == nullptr) return;
  *call->set.mutable_fence() = call->connection.fence;
  call->set.set_key(key);
  call->set.set_value(value);
  call->connection.stub->async()->SetRendezvousKey(&call->context, &call->set, &call->set_response,
                                                   [this, call](const grpc::Status& status) { End(call, status, ""); });
}

void RendezvousRelay::Get(const std::string& key, absl::Duration timeout, Done done) {
  const std::shared_ptr<Call> call = Begin(timeout, done);
  if (call == nullptr) return;
  *call->get.mutable_fence() = call->connection.fence;
  call->get.set_key(key);
  call->connection.stub->async()->GetRendezvousKey(
      &call->context, &call->get, &call->get_response,
      [this, call](const grpc::Status& status) { End(call, status, call->get_response.value()); });
}

void RendezvousRelay::End(const std::shared_ptr<Call>& call, const grpc::Status& status, const std::string& value) {
  if (status.ok()) {
    call->done(value);
  } else {
    call->done(FromGrpc(status));
  }
  absl::MutexLock lock(&mutex_);
  calls_.erase(call);
}

void RendezvousRelay::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  for (const std::shared_ptr<Call>& call : calls_) call->context.TryCancel();
  const auto idle = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return calls_.empty(); };
  mutex_.Await(absl::Condition(&idle));
}

}  // namespace ham::agent

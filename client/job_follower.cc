#include "client/job_follower.h"

#include <random>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/exit_code.h"
#include "proto/backoff.h"
#include "proto/job_state.h"

namespace ham::client {
namespace {

// A lost connection, a coordinator that restarts, or a reader that was too slow: the token leads on from there.
bool MayResume(const absl::Status& status) { return absl::IsUnavailable(status) || absl::IsResourceExhausted(status); }

}  // namespace

absl::StatusOr<ham::v1::Job> FollowJob(CoordinatorClient* client, const FollowRequest& request, CallCancel* cancel,
                                       FollowSink* sink) {
  std::minstd_rand random(std::random_device{}());
  std::uniform_real_distribution<double> unit(0.0, 1.0);
  const absl::Time deadline = absl::Now() + request.max_wait;
  // Since when no stream has brought anything. A quiet job sends nothing either, but each new stream begins with it.
  absl::Time away_since = absl::InfiniteFuture();
  Backoff backoff;
  ham::v1::Job job;
  ham::v1::WatchJobRequest watch;
  watch.set_name(request.job);
  watch.set_follow(request.follow);
  for (const ham::v1::RecordKind kind : request.kinds) watch.add_kinds(kind);
  for (;;) {
    bool received = false;
    const auto receive = [&](const ham::v1::WatchJobResponse& response) {
      if (response.has_job()) job = response.job();
      watch.set_token(response.token());
      received = true;
      sink->Receive(response);
    };
    absl::Status status = client->WatchJob(watch, deadline, cancel, receive);
    if (status.ok()) {
      if (!request.follow || IsFinal(job.state())) return job;
      status = absl::UnavailableError("the coordinator ended the stream before the job's end");
    }
    if (absl::IsDeadlineExceeded(status)) {
      return absl::DeadlineExceededError(
          absl::StrCat("the job has not ended within ", absl::FormatDuration(request.max_wait), "; it goes on"));
    }
    if (!MayResume(status)) return status;
    if (received) backoff.Reset();
    if (received || away_since == absl::InfiniteFuture()) away_since = absl::Now();
    if (absl::Now() - away_since > request.reconnect_limit) return status;
    sink->Lost(status);
    cancel->Wait(backoff.Next(unit(random)));
  }
}

}  // namespace ham::client

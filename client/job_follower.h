// A job's log from its beginning to its end, over lost connections and restarts of the coordinator.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/coordinator_client.h"

namespace ham::client {

struct FollowRequest {
  std::string job;                         // resource name
  std::vector<ham::v1::RecordKind> kinds;  // empty: all
  bool follow = true;                      // false: end at the newest record
  absl::Duration max_wait = absl::InfiniteDuration();
  absl::Duration reconnect_limit = absl::Minutes(2);  // since a stream was lost, before it gives up
};

class FollowSink {
 public:
  virtual ~FollowSink() = default;
  // Each record comes once, in order.
  virtual void Receive(const ham::v1::WatchJobResponse& response) = 0;
  // The stream was lost; another try follows.
  virtual void Lost(const absl::Status& status) = 0;
};

// The job as it was last told: ended, if `follow`. CANCELLED by `cancel`; DEADLINE_EXCEEDED after max_wait; UNAVAILABLE
// after reconnect_limit; the coordinator's own refusals. Blocks.
absl::StatusOr<ham::v1::Job> FollowJob(CoordinatorClient* client, const FollowRequest& request, CallCancel* cancel,
                                       FollowSink* sink);

}  // namespace ham::client

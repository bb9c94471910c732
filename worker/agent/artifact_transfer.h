// Checkpoints between a rank's folder and the coordinator's artifact store.
#pragma once

#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "ham/v1/worker_service.grpc.pb.h"
#include "proto/channel.h"

namespace ham::agent {

// Ends the transfers that use it, from another thread. Any thread.
class TransferCancel {
 public:
  // Running transfers return Cancelled soon, later ones at once.
  void Cancel();
  bool cancelled() const;

  // For the time of one call. False when cancelled.
  bool Enter(grpc::ClientContext* context);
  void Leave(grpc::ClientContext* context);

 private:
  mutable absl::Mutex mutex_;
  std::set<grpc::ClientContext*> contexts_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

// How to reach the store, for one attempt.
struct TransferPeer {
  std::shared_ptr<ham::v1::WorkerService::StubInterface> stub;
  const ConnectionConfig* config = nullptr;  // for the token
  ham::v1::Fence fence;
  TransferCancel* cancel = nullptr;
};

// True for an error of a transfer that another try may not meet.
bool MayPass(const absl::Status& status);

// Uploads the files that the manifest names, then the manifest, and commits. A file that the store holds is not sent
// again, one that it holds in part is continued, one of which it holds something else is sent anew. InvalidArgument for
// a bad manifest; NotFound and DataLoss for missing and changed files; Unavailable when other senders are in the way;
// errors of the coordinator. Blocks.
absl::Status UploadCheckpoint(const TransferPeer& peer, const std::string& manifest, int64_t iteration, int epoch);

// Brings a checkpoint into `directory` (made when missing) and returns the path of its manifest. Each file is checked
// against its digest: DataLoss. After an error the next call goes on where this one ended. Blocks.
absl::StatusOr<std::string> DownloadCheckpoint(const TransferPeer& peer, const ham::v1::Checkpoint& checkpoint,
                                               const std::string& directory);

}  // namespace ham::agent

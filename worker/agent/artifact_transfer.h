// Checkpoints and weights between a rank's folder and the coordinator's artifact store.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "ham/v1/worker_service.grpc.pb.h"
#include "proto/call_cancel.h"
#include "proto/channel.h"

namespace ham::agent {

// How to reach the store, for one attempt.
struct TransferPeer {
  std::shared_ptr<ham::v1::WorkerService::StubInterface> stub;
  const ConnectionConfig* config = nullptr;  // for the token
  ham::v1::Fence fence;
  CallCancel* cancel = nullptr;  // running transfers return Cancelled soon, later ones at once
};

inline constexpr int64_t kMostWeightsBytes = int64_t{16} << 30;  // the coordinator takes no longer artifacts

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

// Brings the artifact of that digest, of at most kMostWeightsBytes, to the file `path`. Otherwise as
// DownloadCheckpoint.
absl::Status DownloadWeights(const TransferPeer& peer, const std::string& digest, const std::string& path);

}  // namespace ham::agent

// The two long streams of a worker, as gRPC reactors that delete themselves.
#pragma once

#include "absl/status/status.h"
#include "ham/v1/worker_service.grpc.pb.h"
#include "server/coordinator_loop.h"
#include "server/open_streams.h"

namespace ham::server {

using ControlReactor = grpc::ServerBidiReactor<ham::v1::AgentMessage, ham::v1::CoordinatorMessage>;
using ReportReactor = grpc::ServerBidiReactor<ham::v1::ReportRequest, ham::v1::ReportResponse>;

// `loop` and `open` outlive the streams.
ControlReactor* NewControlStream(CoordinatorLoop* loop, OpenStreams* open);
ReportReactor* NewReportStream(CoordinatorLoop* loop, OpenStreams* open);
// Streams that are refused at once.
ControlReactor* RefuseControl(const absl::Status& status);
ReportReactor* RefuseReport(const absl::Status& status);

// INVALID_ARGUMENT / FAILED_PRECONDITION for what no worker of this version sends. Pure.
absl::Status CheckRegistration(const ham::v1::RegisterWorker& registration);

}  // namespace ham::server

// Frames between an agent and its trainer, over a stream socketpair.
//
// A frame is a 4-byte little-endian length, then that many bytes of UTF-8 JSON, one object with a string
// "type". At most kMaxFrameBytes. Non-finite numbers travel as the strings "NaN", "Infinity", "-Infinity".
//
// Trainer to agent:
//   hello        {build_id}                                  first frame
//   progress     {phase, tick, iteration, epoch, collective_sequence, collective_begun, collective_seconds}
//                                                            a Progress; at each phase change, and about every 0.1 s
//                                                            if anything of it has changed
//   metric       {point}                                     rank 0; a MetricPoint as protobuf JSON (proto field names)
//   checkpoint   {manifest, iteration, epoch}                rank 0; absolute path of a complete manifest, to be
//                                                            uploaded; its files lie beside it and stay until
//                                                            `checkpoint_done`
//   store_set    {id, key, value}                            rendezvous; value is base64
//   store_get    {id, key, timeout_seconds}                  waits until the key is set
//   finding      {finding}                                   of an evaluation: an EvaluationFinding as protobuf JSON
//   failed       {class, message, lost_rank}                 class is a FailureClass name; the rank whose connection
//                                                            was lost, or -1; then exit status 1
//   done         {}                                          then exit status 0
// Agent to trainer:
//   start        {build_id, job, attempt, rank, world_size, spec, data_root, work_dir, threads, resume_manifest,
//                 weights, interface, address, collective_timeout_seconds, collective_patience_seconds}
//                                                            after hello. spec is the JobSpec as protobuf JSON with
//                                                            proto field names and all primitive fields;
//                                                            resume_manifest "" = from scratch. weights: path of the
//                                                            file of an evaluation's weights, else "". Traffic of a
//                                                            gang goes through `interface`, where that is "" from
//                                                            `address` of this host, and where both are "" over
//                                                            loopback
//   store_reply  {id, ok, value, error}                      value is base64
//   checkpoint_done {manifest, ok, error}
//   work         {blocks}                                    of an evaluation, after start: all that is to be done now,
//                                                            in this order, in the place of what was said before;
//                                                            WorkBlocks as protobuf JSON
// End of stream means the other side is gone: the trainer then exits at once.
#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ham::ipc {

inline constexpr uint32_t kMaxFrameBytes = 4 << 20;

// Writes one frame to a blocking descriptor, whole. Callers serialise. Unavailable when the peer is gone; Internal for
// a message that is too long or holds text that is not UTF-8.
absl::Status WriteFrame(int fd, const nlohmann::json& message);

// Reads one frame from a blocking descriptor. OutOfRange at a clean end of stream; InvalidArgument for a
// frame too long, not JSON or without "type"; Unavailable for a stream cut within a frame.
absl::StatusOr<nlohmann::json> ReadFrame(int fd);

}  // namespace ham::ipc

// What the engine's attacks make of a run that the reference implementation made (autoattack_peer.py trace), and how
// they end on rows that it attacked. Files are as engine_step.h says; attack, norm, epsilon stand in the metadata.
#pragma once

#include <string>

#include "worker/trainer/safetensors.h"

namespace ham::trainer {

// Of apgd-ce, apgd-dlr or apgd-t: x, y, targets if it has them, iterations K in the metadata ->
//   run [K+1, N, C, H, W], losses [K+1, N]  a run of the engine, from start [N, C, H, W], or without it points[0]
//   next [K, N, C, H, W]  where there are points [K+1, N, C, H, W], begin and step_sizes [K, N]: where the engine goes
//   in
//                         each step from the reference's points with its step sizes
TensorMap FollowApgd(const Safetensors& in);

// Of fab-t: x, y, targets, and iterations in the metadata -> run [K, N, C, H, W], where it goes in each iteration.
TensorMap FollowFab(const Safetensors& in);

// What `autoattack_peer.py attacks` prints of the reference, in the same form, of the engine. In the metadata: attacks
// (A,B,...), seed, batch (rows that are attacked together), iterations, queries; with shard=I/N of rows I, I + N, ...
// alone, whose 0 and 1 it then prints.
std::string RunAttacks(const Safetensors& in);

}  // namespace ham::trainer

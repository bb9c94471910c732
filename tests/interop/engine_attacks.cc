#include "tests/interop/engine_attacks.h"

#include <algorithm>
#include <string>
#include <vector>

#include <ATen/ops/stack.h>

#include "tests/interop/peer_network.h"
#include "worker/trainer/evaluation/apgd.h"
#include "worker/trainer/evaluation/fab.h"
#include "worker/trainer/network_passes.h"

namespace ham::trainer {
namespace {

AttackLoss LossOf(const std::string& attack) {
  if (attack == "apgd-ce") return AttackLoss::kCrossEntropy;
  if (attack == "apgd-dlr") return AttackLoss::kDlr;
  TORCH_CHECK(attack == "apgd-t", "attack is ", attack);
  return AttackLoss::kTargetedDlr;
}

AttackedRows RowsOf(const PeerNetwork& peer) {
  AttackedRows out;
  out.batch = {peer.Images("x"), peer.Get("y"), {}};
  for (uint32_t row = 0; row < out.batch.labels.size(0); ++row) out.batch.ids.push_back(row);
  out.ball = {peer.Text("norm") == "l2" ? Norm::kL2 : Norm::kLinf, peer.Real("epsilon")};
  if (peer.Has("targets")) out.targets = peer.Get("targets");
  return out;
}

// Each step of the reference, taken by the engine.
std::vector<at::Tensor> StepsFromItsPoints(const PeerNetwork& peer, const AttackedRows& rows, NetworkPasses& passes) {
  const at::Tensor &points = peer.Get("points"), &begin = peer.Get("begin");
  // What step k of each row, from 0, begins with.
  const auto begin_of = [&](int64_t k) {
    at::Tensor out = peer.Images(points[0]);
    for (int64_t row = 0; row < out.size(0); ++row) out[row].copy_(points[begin[k][row].item<int64_t>()][row]);
    return out;
  };
  std::vector<at::Tensor> out;
  for (int64_t k = 0; k < begin.size(0); ++k) {
    const at::Tensor x = begin_of(k);
    const ApgdPoint point{x, begin_of(std::max<int64_t>(k - 1, 0)), passes.AttackPoint(x).gradient};
    out.push_back(ApgdStep(rows.ball, rows.batch.x, point, peer.Get("step_sizes")[k], k == 0 ? 1 : 0.75));
  }
  return out;
}

}  // namespace

TensorMap FollowApgd(const Safetensors& in) {
  const PeerNetwork peer(in);
  const AttackedRows rows = RowsOf(peer);
  const AttackLoss loss = LossOf(peer.Text("attack"));
  NetworkPasses passes(peer.model(), peer.weights());
  passes.Freeze(peer.weights());
  TensorMap out;
  if (peer.Has("begin")) {
    passes.Aim(loss, rows.batch, rows.targets);
    out["next"] = at::stack(StepsFromItsPoints(peer, rows, passes));
  }
  const at::Tensor start = peer.Images(peer.Has("start") ? peer.Get("start") : peer.Get("points")[0]);
  Apgd attack(passes, rows, loss, static_cast<int>(peer.Int("iterations")), start);
  std::vector<at::Tensor> run, losses;
  for (int i = 0; i < attack.iterations(); ++i) {
    const AttackRun::Points points = attack.Next();
    run.push_back(points.x.clone());
    losses.push_back(passes.LossValues(points.logits));
  }
  out["run"] = at::stack(run);
  out["losses"] = at::stack(losses);
  return out;
}

TensorMap FollowFab(const Safetensors& in) {
  const PeerNetwork peer(in);
  NetworkPasses passes(peer.model(), peer.weights());
  passes.Freeze(peer.weights());
  FabTargeted attack(passes, RowsOf(peer), static_cast<int>(peer.Int("iterations")), /*restart=*/0);
  std::vector<at::Tensor> run;
  for (int i = 0; i < attack.iterations(); ++i) run.push_back(attack.Next().x.clone());
  return {{"run", at::stack(run)}};
}

}  // namespace ham::trainer

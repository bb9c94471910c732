#include "tests/interop/engine_attacks.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/stack.h>

#include <nlohmann/json.hpp>
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "tests/interop/peer_network.h"
#include "worker/trainer/evaluation/apgd.h"
#include "worker/trainer/evaluation/fab.h"
#include "worker/trainer/evaluation/row_attack.h"
#include "worker/trainer/hard_examples.h"
#include "worker/trainer/network_passes.h"
#include "worker/trainer/stopwatch.h"

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

EvaluationAttack StandardAttack(const std::string& name, int iterations, int queries) {
  constexpr int kTargets = 9;
  if (name == "apgd-ce") return {.steps = iterations, .name = AttackName::kApgd};
  if (name == "apgd-t") return {.steps = iterations, .name = AttackName::kApgdTargeted, .targets = kTargets};
  if (name == "fab-t") return {.steps = iterations, .name = AttackName::kFabTargeted, .targets = kTargets};
  TORCH_CHECK(name == "square", "attacks holds ", name);
  return {.steps = queries, .name = AttackName::kSquare};
}

// Of the rows [N], which of those that `robust` names are classified right after the attack, too.
std::vector<uint8_t> After(NetworkPasses& passes, const AttackedRows& rows, const EvaluationAttack& attack,
                           uint32_t place, int64_t block_rows, const std::vector<uint8_t>& robust) {
  std::vector<uint8_t> out = robust;
  for (size_t begin = 0; begin < out.size();) {
    std::vector<uint8_t> taken(out.size(), 0);
    std::vector<size_t> places;
    for (; begin < out.size() && static_cast<int64_t>(places.size()) < block_rows; ++begin) {
      if (robust[begin] == 0) continue;
      taken[begin] = 1;
      places.push_back(begin);
    }
    if (places.empty()) break;
    RowAttack block(passes, SelectRows(rows.batch, taken), attack, rows.ball, rows.key.seed, place);
    for (int leg = 0; leg < RowAttack::Legs(attack); ++leg) block.MakeLeg([] {});
    for (size_t row = 0; row < places.size(); ++row) out[places[row]] = !block.outcomes()[row].broken;
  }
  return out;
}

std::string Bits(const std::vector<uint8_t>& flags) {
  std::string out;
  for (uint8_t flag : flags) out += flag != 0 ? '1' : '0';
  return out;
}

// Those of shard=I/N.
AttackedRows OfShard(AttackedRows rows, const std::string& shard) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(shard, '/');
  int64_t index = 0, count = 0;
  TORCH_CHECK(absl::SimpleAtoi(parts.first, &index) && absl::SimpleAtoi(parts.second, &count) && count > 0, "shard is ",
              shard);
  std::vector<uint8_t> keep(rows.batch.ids.size());
  for (size_t row = 0; row < keep.size(); ++row) keep[row] = static_cast<int64_t>(row) % count == index;
  rows.batch = SelectRows(rows.batch, keep);
  return rows;
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

std::string RunAttacks(const Safetensors& in) {
  const PeerNetwork peer(in);
  AttackedRows rows = OfShard(RowsOf(peer), peer.Text("shard"));
  rows.key.seed = peer.Int("seed");
  NetworkPasses passes(peer.model(), peer.weights());
  passes.Freeze(peer.weights());
  const std::vector<int64_t> predictions = Predictions(passes.Logits(rows.batch.x));
  std::vector<uint8_t> robust(predictions.size());
  for (size_t row = 0; row < robust.size(); ++row) {
    robust[row] = predictions[row] == rows.batch.labels.const_data_ptr<int64_t>()[row];
  }
  nlohmann::json out = {{"robust", {{"clean", Bits(robust)}}}};
  uint32_t place = 0;
  Stopwatch watch;
  const std::vector<std::string> names = absl::StrSplit(peer.Text("attacks"), ',');
  for (const std::string& name : names) {
    const auto attack =
        StandardAttack(name, static_cast<int>(peer.Int("iterations")), static_cast<int>(peer.Int("queries")));
    robust = After(passes, rows, attack, place++, peer.Int("batch"), robust);
    out["robust"][name] = Bits(robust);
    out["seconds"][name] = watch.Lap();
  }
  return out.dump();
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

#include "worker/trainer/step_profile.h"

#include <algorithm>
#include <cassert>

namespace ham::trainer {

const char* PhaseName(Phase phase) {
  switch (phase) {
    case Phase::kData:
      return "data";
    case Phase::kStart:
      return "start";
    case Phase::kAttack:
      return "attack";
    case Phase::kMining:
      return "mining";
    case Phase::kTrain:
      return "train";
    case Phase::kAllReduce:
      return "all_reduce";
    case Phase::kUpdate:
      return "update";
    case Phase::kEvaluation:
      return "evaluation";
  }
  return "";
}

void PhaseSeconds::Add(const PhaseSeconds& other) {
  for (size_t i = 0; i < seconds.size(); ++i) seconds[i] += other.seconds[i];
}

double PhaseSeconds::Attack() const {
  return (*this)[Phase::kStart] + (*this)[Phase::kAttack] + (*this)[Phase::kMining];
}

double PhaseSeconds::Train() const {
  return (*this)[Phase::kTrain] + (*this)[Phase::kAllReduce] + (*this)[Phase::kUpdate];
}

double PhaseSeconds::Step() const { return (*this)[Phase::kData] + Attack() + Train(); }

std::vector<double> HostClock::Take(size_t count) {
  std::vector<double> out(count);
  std::transform(marks_.begin(), marks_.begin() + static_cast<std::ptrdiff_t>(count), out.begin(),
                 [](auto mark) { return std::chrono::duration<double>(mark.time_since_epoch()).count(); });
  marks_.erase(marks_.begin(), marks_.begin() + static_cast<std::ptrdiff_t>(count));
  return out;
}

void StepProfile::Enter(Phase phase) {
  if (in_phase_ && phase == current_) return;
  in_phase_ = true;
  current_ = phase;
  Add({Mark::kEnter, phase});
}

void StepProfile::KeepSpans() {
  assert(pending_.empty());
  keep_spans_ = true;
  step_ = 0;
}

void StepProfile::EndPart() {
  if (keep_spans_ && in_phase_) Add({Mark::kPart, current_});
}

void StepProfile::Leave() {
  assert(in_phase_);
  in_phase_ = false;
  Add({Mark::kLeave, current_});
  Settle(pending_before_);
  pending_before_ = pending_.size();
}

PhaseSeconds StepProfile::Take() {
  assert(!in_phase_);
  Settle(pending_.size());
  pending_before_ = 0;
  return std::exchange(sums_, {});
}

void StepProfile::Add(Mark mark) {
  clock_->Mark();
  pending_.push_back(mark);
}

void StepProfile::Settle(size_t marks) {
  const std::vector<double> times = clock_->Take(marks);
  for (size_t i = 0; i < marks; ++i) SettleOne(pending_[i], times[i]);
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(marks));
}

void StepProfile::SettleOne(const Mark& mark, double time) {
  if (mark.kind == Mark::kPart) {
    spans_.push_back({settled_phase_, true, step_, part_begin_, time});
    part_begin_ = time;
    return;
  }
  if (settled_in_phase_) {
    sums_[settled_phase_] += time - phase_begin_;
    if (keep_spans_) spans_.push_back({settled_phase_, false, step_, phase_begin_, time});
  }
  settled_in_phase_ = mark.kind == Mark::kEnter;
  settled_phase_ = mark.phase;
  phase_begin_ = part_begin_ = time;
  if (mark.kind == Mark::kLeave) ++step_;
}

}  // namespace ham::trainer

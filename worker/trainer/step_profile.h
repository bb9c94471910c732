// Where the time of training steps goes: the step says which phase it enters, and this adds up seconds.
//
// A clock's marks cost tens of nanoseconds on a CPU and one recorded event on a device; a step waits for the end of the
// one before, nothing else. One thread at a time.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace ham::trainer {

enum class Phase {
  kData,       // waiting for the batch
  kStart,      // start points of the attack
  kAttack,     // its steps, before and after mining
  kMining,     // logits of what is attacked, choosing rows, moving them between ranks
  kTrain,      // forward and backward
  kAllReduce,  // sums over ranks, and what they are divided by
  kUpdate,     // optimizer and averages
  kEvaluation,
};
inline constexpr std::array kPhases = {Phase::kData,  Phase::kStart,     Phase::kAttack, Phase::kMining,
                                       Phase::kTrain, Phase::kAllReduce, Phase::kUpdate, Phase::kEvaluation};
// "data", "start", "attack", "mining", "train", "all_reduce", "update", "evaluation".
const char* PhaseName(Phase phase);

struct PhaseSeconds {
  std::array<double, kPhases.size()> seconds{};

  double operator[](Phase phase) const { return seconds[static_cast<size_t>(phase)]; }
  double& operator[](Phase phase) { return seconds[static_cast<size_t>(phase)]; }
  void Add(const PhaseSeconds& other);
  // Finding the rows to train on: start, attack, mining.
  double Attack() const;
  // Training on them: train, all-reduce, update.
  double Train() const;
  // All phases of a step.
  double Step() const;
};

// When work was done that this thread asked for.
class PhaseClock {
 public:
  virtual ~PhaseClock() = default;
  // Marks the end of all work asked for so far. Waits for nothing.
  virtual void Mark() = 0;
  // The times of the `count` oldest marks that were not taken yet, in seconds since some fixed moment. Waits until the
  // work before them is done.
  virtual std::vector<double> Take(size_t count) = 0;
};

// The steady clock: work is done when the call returns.
class HostClock : public PhaseClock {
 public:
  void Mark() override { marks_.push_back(std::chrono::steady_clock::now()); }
  std::vector<double> Take(size_t count) override;

 private:
  std::vector<std::chrono::steady_clock::time_point> marks_;
};

class StepProfile {
 public:
  // For a trace: a phase, or a part of one.
  struct Span {
    Phase phase;
    bool is_part;
    int64_t step;       // since KeepSpans()
    double begin, end;  // seconds on the clock
  };

  explicit StepProfile(std::unique_ptr<PhaseClock> clock = std::make_unique<HostClock>()) : clock_(std::move(clock)) {}

  // `phase` begins, and the one before it ends. No change if it is that one.
  void Enter(Phase phase);
  // What comes is of no phase: the step is over. Adds up the step before, whose work on a device is done as soon as
  // this step has waited for anything.
  void Leave();
  // Seconds of the phases that ended since the last call. Between steps; waits for the device.
  PhaseSeconds Take();

  // From now on keeps spans, too, at the price of a mark for each part. After Take().
  void KeepSpans();
  // An attack step, say, is done: a part of the current phase. No effect unless spans are kept.
  void EndPart();
  // Those of phases that Take() has given seconds of, in the order of their ends.
  const std::vector<Span>& spans() const { return spans_; }

 private:
  struct Mark {
    enum { kEnter, kPart, kLeave } kind;
    Phase phase;
  };
  void Add(Mark mark);
  void Settle(size_t marks);
  void SettleOne(const Mark& mark, double time);

  const std::unique_ptr<PhaseClock> clock_;
  bool in_phase_ = false;
  Phase current_ = Phase::kData;  // if in_phase_
  bool keep_spans_ = false;
  std::vector<Mark> pending_;  // not settled, as in the clock
  size_t pending_before_ = 0;  // of these, of steps before the last one
  PhaseSeconds sums_;
  // As of the last settled mark.
  bool settled_in_phase_ = false;
  Phase settled_phase_ = Phase::kData;
  double phase_begin_ = 0;
  double part_begin_ = 0;
  int64_t step_ = 0;
  std::vector<Span> spans_;
};

}  // namespace ham::trainer

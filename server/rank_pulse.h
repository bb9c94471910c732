// What a rank's reports say of its life: how long it has been silent, and how long a silence is usual. Pure.
//
// Silence is counted in reports that say nothing new, not in time that passes: who holds the agent, the network or the
// coordinator up for a while makes no rank look stuck.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/time/time.h"
#include "ham/v1/worker_service.pb.h"

namespace ham::server {

// Silence after which a rank is stuck.
struct HangBounds {
  absl::Duration unknown = absl::Seconds(60);  // where no usual silence is known yet
  absl::Duration least = absl::Seconds(30);    // where one is, or `silences` usual ones if that is longer
  double silences = 5;
  // At least, of a rank that is at work although it says nothing: it waits for no other rank, and its process uses a
  // tenth of a CPU or waits for a disk, or it is not known what its process does. On a GPU, where a thread of the host
  // may spin for ever, `unknown` at least once a usual silence is known.
  absl::Duration busy = absl::Minutes(10);
};

class RankPulse {
 public:
  // A report that came `since_last` after the one before; how long the agent may have had nothing to say is not in it.
  void Observe(const ham::v1::ObservedRank& observed, absl::Duration since_last);

  // Of its last reports, in which nothing had happened.
  absl::Duration silence() const { return silence_; }
  absl::Duration Bound(const HangBounds& bounds, bool on_gpu) const;
  // Never before its trainer has named a phase: what comes before is the agent's to bound.
  bool IsStuck(const HangBounds& bounds, bool on_gpu) const {
    return progress_.phase >= 0 && silence_ >= Bound(bounds, on_gpu);
  }

  // "" before its first word, and for a phase that this version does not know.
  const char* phase() const;
  // How many times it has come to where all ranks meet: when they connect, and in each collective.
  int64_t meetings() const { return progress_.meetings; }
  // It is there and waits for the others.
  bool waits() const { return progress_.waits; }
  bool stopped() const { return state_ == ham::v1::ProcessState::STOPPED; }
  bool blocked() const { return state_ == ham::v1::ProcessState::BLOCKED; }
  // CPU time of its process in its silence; nullopt if the worker does not tell.
  std::optional<absl::Duration> cpu_in_silence() const;
  // Share of its silence in which its GPU ran a kernel; nullopt if that is not told.
  std::optional<double> gpu_in_silence() const;

  // Share of the time that it spent in collectives, of the last whole minute; below 0 before there is one.
  double collective_share() const { return collective_share_; }
  // The last report ended such a minute.
  bool minute_over() const { return collective_share_ >= 0 && minute_ == absl::ZeroDuration(); }

 private:
  static constexpr size_t kPhases = 6;
  static constexpr size_t kSilences = 15;
  static constexpr size_t kLearned = 7;  // silences
  struct Usual {
    std::array<float, kSilences> seconds;  // of the newest silences
    size_t count = 0;                      // ever seen
  };
  struct Known {
    int phase = -1;
    int64_t tick = 0;
    int64_t meetings = 0;
    bool waits = false;
    bool operator==(const Known&) const = default;
  };

  // Those of a wait for others are known apart: they are as long as the others' work.
  // Of its phase; of one that is not known, those of nothing.
  const Usual& UsualNow() const { return usual_[PlaceOfUsual()]; }
  size_t PlaceOfUsual() const;
  void Learn(absl::Duration silence);
  void TakeProcess(const ham::v1::ObservedRank& observed);
  void TakeGpu(const ham::v1::ObservedRank& observed, absl::Duration time);
  void Share(double collective_seconds, absl::Duration time);
  bool IsAtWork() const;

  Known progress_;
  ham::v1::ProcessState::State state_ = ham::v1::ProcessState::STATE_UNSPECIFIED;
  double cpu_seconds_ = 0;                // as told last
  std::optional<double> cpu_at_advance_;  // nullopt before it was told
  absl::Duration silence_;
  absl::Duration gpu_told_;  // of it: time for which its GPU's use was told
  absl::Duration gpu_busy_;
  std::array<Usual, 2 * kPhases + 1> usual_ = {};  // at work, waiting, and of no phase

  std::optional<double> collective_seconds_;  // when the minute began
  absl::Duration minute_;                     // of it
  double collective_share_ = -1;
};

}  // namespace ham::server

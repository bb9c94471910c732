// What a rank's reports say of its life: how long it has been silent, and how long a silence is usual. Pure.
//
// Silence is counted in reports that say nothing new, not in time that passes: who holds the agent, the network or the
// coordinator up for a while makes no rank look stuck.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "ham/v1/worker_service.pb.h"

namespace ham::server {

// Silence after which a rank is stuck.
struct HangBounds {
  absl::Duration unknown = absl::Seconds(60);  // of a phase whose ticks are not known yet
  absl::Duration least = absl::Seconds(30);    // of one whose ticks are, or `ticks` usual ones if that is longer
  double ticks = 5;
  // At least, of a rank that computes: it waits for nobody and uses a tenth of a CPU. On a GPU, where a host thread may
  // spin for ever, only while nothing is known.
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
    return !phase().empty() && silence_ >= Bound(bounds, on_gpu);
  }

  const std::string& phase() const { return progress_.phase; }
  // How many times it has come to where all ranks meet: when they connect, and in each collective.
  int64_t meetings() const { return progress_.meetings; }
  // It is there and waits for the others.
  bool waits() const { return progress_.waits; }
  bool stopped() const { return state_ == ham::v1::ProcessState::STOPPED; }
  bool blocked() const { return state_ == ham::v1::ProcessState::BLOCKED; }
  // CPU time of its process in its silence.
  absl::Duration cpu_in_silence() const { return absl::Seconds(cpu_seconds_ - cpu_at_advance_); }

  // Share of the time that it spent in collectives, of the last whole minute; below 0 before there is one.
  double collective_share() const { return collective_share_; }
  // The last report ended such a minute.
  bool minute_over() const { return collective_share_ >= 0 && minute_ == absl::ZeroDuration(); }

 private:
  static constexpr size_t kPhases = 6;
  static constexpr size_t kGaps = 15;
  static constexpr size_t kLearned = 7;  // gaps
  struct Usual {
    std::array<float, kGaps> gaps;  // seconds a tick; the newest ones
    size_t count = 0;               // ever seen
  };
  struct Known {
    std::string phase;
    int64_t tick = 0;
    int64_t meetings = 0;
    bool waits = false;
    bool operator==(const Known&) const = default;
  };

  void Learn(int64_t ticks, absl::Duration time);
  void Share(double collective_seconds, absl::Duration time);
  bool Computes() const;

  Known progress_;
  ham::v1::ProcessState::State state_ = ham::v1::ProcessState::STATE_UNSPECIFIED;
  double cpu_seconds_ = 0;
  double cpu_at_advance_ = 0;
  absl::Duration silence_;
  std::array<Usual, kPhases> usual_ = {};

  double collective_seconds_ = 0;  // when the minute began
  absl::Duration minute_;          // of it
  double collective_share_ = -1;
};

}  // namespace ham::server

#include "server/rank_pulse.h"

#include <algorithm>
#include <iterator>

namespace ham::server {
namespace {

constexpr const char* kNames[] = {"load", "connect", "first_step", "train", "save", "evaluate"};

}  // namespace

void RankPulse::Observe(const ham::v1::ObservedRank& observed, absl::Duration since_last) {
  const ham::v1::Progress& progress = observed.progress();
  const bool connecting = progress.phase() == "connect";
  const bool met = progress.collective_begun() > 0 || progress.collective_sequence() > 0;
  const Known now{.phase = progress.phase(),
                  .tick = progress.tick(),
                  .meetings = met ? 1 + progress.collective_begun() : int64_t{connecting},
                  .waits = connecting || progress.collective_begun() > progress.collective_sequence()};
  state_ = observed.process().state();
  cpu_seconds_ = observed.process().cpu_seconds();
  Share(progress.collective_seconds(), since_last);
  if (now == progress_) {
    silence_ += since_last;
    return;
  }
  if (now.phase == progress_.phase && now.tick > progress_.tick)
    Learn(now.tick - progress_.tick, silence_ + since_last);
  progress_ = now;
  silence_ = absl::ZeroDuration();
  cpu_at_advance_ = cpu_seconds_;
}

void RankPulse::Learn(int64_t ticks, absl::Duration time) {
  const auto name = std::find(std::begin(kNames), std::end(kNames), progress_.phase);
  if (name == std::end(kNames)) return;
  Usual& usual = usual_[static_cast<size_t>(name - std::begin(kNames))];
  usual.gaps[usual.count++ % kGaps] = static_cast<float>(absl::ToDoubleSeconds(time) / static_cast<double>(ticks));
}

void RankPulse::Share(double collective_seconds, absl::Duration time) {
  minute_ += time;
  if (minute_ < absl::Minutes(1)) return;
  collective_share_ = std::clamp((collective_seconds - collective_seconds_) / absl::ToDoubleSeconds(minute_), 0.0, 1.0);
  collective_seconds_ = collective_seconds;
  minute_ = absl::ZeroDuration();
}

bool RankPulse::Computes() const { return !waits() && !stopped() && cpu_in_silence() > 0.1 * silence_; }

absl::Duration RankPulse::Bound(const HangBounds& bounds, bool on_gpu) const {
  const auto name = std::find(std::begin(kNames), std::end(kNames), progress_.phase);
  const Usual* usual = name == std::end(kNames) ? nullptr : &usual_[static_cast<size_t>(name - std::begin(kNames))];
  const bool learned = usual != nullptr && usual->count >= kLearned;
  absl::Duration bound = bounds.unknown;
  if (learned) {
    std::array<float, kGaps> gaps = usual->gaps;
    const size_t count = std::min(usual->count, kGaps);
    std::nth_element(gaps.begin(), gaps.begin() + count / 2, gaps.begin() + count);
    bound = std::max(bounds.least, absl::Seconds(bounds.ticks * gaps[count / 2]));
  }
  return Computes() && !(on_gpu && learned) ? std::max(bound, bounds.busy) : bound;
}

}  // namespace ham::server

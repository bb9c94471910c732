#include "server/rank_pulse.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string_view>

namespace ham::server {
namespace {

constexpr const char* kNames[] = {"load", "connect", "first_step", "train", "save", "evaluate"};
constexpr int kConnect = 1;
// A worker may say what it likes.
constexpr int64_t kMost = int64_t{1} << 60;

int PhaseOf(std::string_view name) {
  const auto found = std::find(std::begin(kNames), std::end(kNames), name);
  return found == std::end(kNames) ? -1 : static_cast<int>(found - std::begin(kNames));
}

}  // namespace

const char* RankPulse::phase() const { return progress_.phase < 0 ? "" : kNames[progress_.phase]; }

void RankPulse::Observe(const ham::v1::ObservedRank& observed, absl::Duration since_last) {
  const ham::v1::Progress& progress = observed.progress();
  const int64_t begun = std::clamp<int64_t>(progress.collective_begun(), 0, kMost);
  Known now{.phase = PhaseOf(progress.phase()), .tick = progress.tick(), .meetings = 0, .waits = false};
  now.waits = now.phase == kConnect || begun > progress.collective_sequence();
  now.meetings = std::max<int64_t>(progress_.meetings, begun > 0 ? 1 + begun : now.phase == kConnect ? 1 : 0);
  TakeProcess(observed);
  Share(progress.collective_seconds(), since_last);
  silence_ += since_last;
  TakeGpu(observed, since_last);
  if (now == progress_) return;
  if (now.phase == progress_.phase) Learn(silence_);
  progress_ = now;
  silence_ = absl::ZeroDuration();
  gpu_told_ = gpu_busy_ = absl::ZeroDuration();
  if (cpu_at_advance_) cpu_at_advance_ = cpu_seconds_;
}

void RankPulse::TakeProcess(const ham::v1::ObservedRank& observed) {
  if (!observed.has_process()) return;
  state_ = observed.process().state();
  cpu_seconds_ = observed.process().cpu_seconds();
  if (!cpu_at_advance_) cpu_at_advance_ = cpu_seconds_;
}

void RankPulse::TakeGpu(const ham::v1::ObservedRank& observed, absl::Duration time) {
  const double share = observed.gpu_utilization();
  if (!observed.has_gpu_utilization() || !std::isfinite(share)) return;
  gpu_told_ += time;
  gpu_busy_ += std::clamp(share, 0.0, 1.0) * time;
}

std::optional<double> RankPulse::gpu_in_silence() const {
  if (gpu_told_ <= absl::ZeroDuration()) return std::nullopt;
  return absl::FDivDuration(gpu_busy_, gpu_told_);
}

std::optional<absl::Duration> RankPulse::cpu_in_silence() const {
  if (!cpu_at_advance_) return std::nullopt;
  return absl::Seconds(cpu_seconds_ - *cpu_at_advance_);
}

size_t RankPulse::PlaceOfUsual() const {
  if (progress_.phase < 0) return 2 * kPhases;
  return static_cast<size_t>(progress_.phase) + (waits() && !stopped() ? kPhases : 0);
}

void RankPulse::Learn(absl::Duration silence) {
  if (progress_.phase < 0) return;
  Usual& usual = usual_[PlaceOfUsual()];
  usual.seconds[usual.count++ % kSilences] = static_cast<float>(absl::ToDoubleSeconds(silence));
}

void RankPulse::Share(double collective_seconds, absl::Duration time) {
  if (!std::isfinite(collective_seconds)) return;
  if (!collective_seconds_) collective_seconds_ = collective_seconds;
  minute_ += time;
  if (minute_ < absl::Minutes(1)) return;
  collective_share_ =
      std::clamp((collective_seconds - *collective_seconds_) / absl::ToDoubleSeconds(minute_), 0.0, 1.0);
  collective_seconds_ = collective_seconds;
  minute_ = absl::ZeroDuration();
}

bool RankPulse::IsAtWork() const {
  if (waits() || stopped()) return false;
  const std::optional<absl::Duration> cpu = cpu_in_silence();
  return blocked() || !cpu || *cpu > 0.1 * silence_;
}

absl::Duration RankPulse::Bound(const HangBounds& bounds, bool on_gpu) const {
  const Usual& usual = UsualNow();
  const bool learned = usual.count >= kLearned;
  absl::Duration bound = bounds.unknown;
  if (learned) {
    std::array<float, kSilences> seconds = usual.seconds;
    const size_t count = std::min(usual.count, kSilences);
    std::nth_element(seconds.begin(), seconds.begin() + count / 2, seconds.begin() + count);
    bound = std::max(waits() && !stopped() ? bounds.unknown : bounds.least,
                     absl::Seconds(bounds.silences * seconds[count / 2]));
  }
  if (!IsAtWork()) return bound;
  return std::max(bound, on_gpu && learned ? bounds.unknown : bounds.busy);
}

}  // namespace ham::server

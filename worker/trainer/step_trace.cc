#include "worker/trainer/step_trace.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ham::trainer {
namespace {

using nlohmann::json;

class Timeline {
 public:
  Timeline(int rank, double zero) : rank_(rank), zero_(zero) {}

  void Add(std::string name, double begin, double end, int64_t step) {
    events_.push_back({{"name", std::move(name)},
                       {"ph", "X"},
                       {"ts", 1e6 * (begin - zero_)},
                       {"dur", 1e6 * (end - begin)},
                       {"pid", rank_},
                       {"tid", 0},
                       {"args", {{"step", step}}}});
  }
  json Take() { return std::move(events_); }

 private:
  const int rank_;
  const double zero_;
  json events_ = json::array();
};

}  // namespace

json TraceEvents(const std::vector<StepProfile::Span>& spans, int rank) {
  if (spans.empty()) return json::array();
  const auto earlier = [](const auto& a, const auto& b) { return a.begin < b.begin; };
  Timeline timeline(rank, std::min_element(spans.begin(), spans.end(), earlier)->begin);
  for (auto next = spans.begin(); next != spans.end();) {
    const int64_t step = next->step;
    const auto end = std::find_if(next, spans.end(), [&](const auto& span) { return span.step != step; });
    const bool evaluation = next->phase == Phase::kEvaluation;
    if (!evaluation) timeline.Add("step", std::min_element(next, end, earlier)->begin, std::prev(end)->end, step);
    for (; next != end; ++next) {
      timeline.Add(next->is_part ? absl::StrCat(PhaseName(next->phase), " part") : PhaseName(next->phase), next->begin,
                   next->end, step);
    }
  }
  return timeline.Take();
}

absl::StatusOr<std::string> GatherTrace(const std::vector<StepProfile::Span>& spans, Collective& collective) {
  std::string own = TraceEvents(spans, collective.rank()).dump();
  const size_t ranks = collective.world_size();
  const uint64_t size = own.size();
  std::vector<uint64_t> sizes(ranks);
  if (absl::Status status = collective.AllGather(&size, sizeof(size), sizes.data()); !status.ok()) return status;
  const uint64_t most = *std::max_element(sizes.begin(), sizes.end());
  own.resize(most);
  std::string all(ranks * most, '\0');
  if (absl::Status status = collective.AllGather(own.data(), most, all.data()); !status.ok()) return status;
  if (collective.rank() != 0) return std::string();
  json events = json::array();
  for (size_t rank = 0; rank < ranks; ++rank) {
    json of_rank = json::parse(all.substr(rank * most, sizes[rank]));
    events.insert(events.end(), of_rank.begin(), of_rank.end());
  }
  return json({{"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}}).dump();
}

}  // namespace ham::trainer

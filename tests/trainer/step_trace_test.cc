#include "worker/trainer/step_trace.h"

#include <gtest/gtest.h>

#include "tests/support/run_ranks.h"

namespace ham::trainer {
namespace {

using nlohmann::json;

// Two steps with two attack steps each, and an evaluation, from second `zero` on.
std::vector<StepProfile::Span> Spans(double zero) {
  std::vector<StepProfile::Span> out;
  for (int64_t step = 0; step < 2; ++step) {
    const double begin = zero + 10.0 * static_cast<double>(step);
    out.push_back({Phase::kStart, false, step, begin, begin + 1});
    out.push_back({Phase::kAttack, true, step, begin + 1, begin + 2});
    out.push_back({Phase::kAttack, true, step, begin + 2, begin + 3});
    out.push_back({Phase::kAttack, false, step, begin + 1, begin + 4});
    out.push_back({Phase::kTrain, false, step, begin + 4, begin + 9});
  }
  out.push_back({Phase::kEvaluation, true, 2, zero + 21, zero + 22});
  out.push_back({Phase::kEvaluation, false, 2, zero + 20, zero + 25});
  return out;
}

// Whether of any two events of one thread one lies within the other, or they lie apart: viewers want that.
bool Nests(const json& events) {
  for (const json& a : events) {
    for (const json& b : events) {
      if (a["pid"] != b["pid"]) continue;
      const double a_begin = a["ts"], a_end = a_begin + a["dur"].get<double>();
      const double b_begin = b["ts"], b_end = b_begin + b["dur"].get<double>();
      const bool apart = a_end <= b_begin || b_end <= a_begin;
      const bool within = (a_begin <= b_begin && b_end <= a_end) || (b_begin <= a_begin && a_end <= b_end);
      if (!apart && !within) return false;
    }
  }
  return true;
}

TEST(StepTraceTest, StepsHoldPhasesAndThoseHoldTheirParts) {
  const json events = TraceEvents(Spans(1000), 3);
  EXPECT_EQ(events.size(), 2 * 6 + 2);
  EXPECT_TRUE(Nests(events));
  EXPECT_EQ(
      events[0],
      (json{
          {"name", "step"}, {"ph", "X"}, {"ts", 0.0}, {"dur", 9e6}, {"pid", 3}, {"tid", 0}, {"args", {{"step", 0}}}}));
  EXPECT_EQ(events[2]["name"], "attack part");
  EXPECT_EQ(events[4]["name"], "attack");
  EXPECT_EQ(events[4]["dur"], 3e6);
  EXPECT_EQ(events[6]["name"], "step");
  EXPECT_EQ(events[6]["ts"], 10e6);
  EXPECT_EQ(events.back()["name"], "evaluation");
  EXPECT_EQ(TraceEvents({}, 0), json::array());
}

TEST(StepTraceTest, RankZeroGathersAll) {
  ham::testing::RunRanks(3, [](Collective& ranks) {
    std::vector<StepProfile::Span> spans = Spans(100 * ranks.rank());
    if (ranks.rank() == 1) spans.resize(5);
    const auto text = GatherTrace(spans, ranks);
    ASSERT_TRUE(text.ok()) << text.status();
    if (ranks.rank() != 0) {
      EXPECT_EQ(*text, "");
      return;
    }
    const json trace = json::parse(*text);
    EXPECT_EQ(trace["traceEvents"].size(), 14 + 6 + 14);
    EXPECT_TRUE(Nests(trace["traceEvents"]));
    std::vector<int> steps(3);
    for (const json& event : trace["traceEvents"]) steps[event["pid"]] += event["name"] == "step";
    EXPECT_EQ(steps, (std::vector<int>{2, 1, 2}));
  });
}

}  // namespace
}  // namespace ham::trainer

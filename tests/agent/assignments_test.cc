#include "worker/agent/assignments.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace ham::agent {
namespace {

using ham::v1::ObservedRank;

// "a0" is rank 0 of attempt 1 of job a, "a0#2" of attempt 2; "@1" behind it names its slot, "=25" the stages of its
// blocks, 2 and 5.
RankId Id(const std::string& text) {
  return {text.substr(0, 1), text.find('#') == std::string::npos ? 1 : text[text.find('#') + 1] - '0', text[1] - '0'};
}

std::string Name(const RankId& id) {
  return absl::StrCat(id.job, id.rank, id.attempt == 1 ? "" : absl::StrCat("#", id.attempt));
}

ham::v1::Assignment ParseAssignment(const std::string& text) {
  const RankId id = Id(text);
  ham::v1::Assignment assignment;
  assignment.set_job(id.job);
  assignment.set_attempt(id.attempt);
  assignment.set_rank(id.rank);
  assignment.set_slot(text[text.find('@') + 1] - '0');
  for (size_t at = text.find('='); at < text.size() - 1;) assignment.add_blocks()->set_stage(text[++at] - '0');
  return assignment;
}

std::string StagesOf(const google::protobuf::RepeatedPtrField<ham::v1::WorkBlock>& blocks) {
  std::string out = "=";
  for (const ham::v1::WorkBlock& block : blocks) absl::StrAppend(&out, block.stage());
  return out == "=" ? "" : out;
}

std::string Text(const Action& action) {
  if (const auto* start = std::get_if<StartRank>(&action)) {
    return absl::StrCat("start ", Name(IdOf(start->assignment)), StagesOf(start->assignment.blocks()));
  }
  if (const auto* terminate = std::get_if<TerminateRank>(&action)) return "term " + Name(terminate->id);
  if (const auto* kill = std::get_if<KillRank>(&action)) return "kill " + Name(kill->id);
  if (const auto* work = std::get_if<GiveWork>(&action)) {
    return absl::StrCat("work ", Name(work->id), StagesOf(work->blocks));
  }
  return "forget " + Name(std::get<ForgetRank>(action).id);
}

std::string Text(const std::vector<ObservedRank>& observed) {
  std::vector<std::string> ranks;
  for (const ObservedRank& rank : observed) {
    std::string text =
        absl::StrCat(Name({rank.job(), rank.attempt(), rank.rank()}), ":", ObservedRank::State_Name(rank.state()));
    if (rank.has_exit()) {
      text += rank.exit().success() ? "/OK" : "/" + ham::v1::FailureClass_Name(rank.exit().failure_class());
    }
    ranks.push_back(std::move(text));
  }
  return absl::StrJoin(ranks, " ");
}

ham::v1::RankExit Exit(bool success) {
  ham::v1::RankExit exit;
  exit.set_success(success);
  if (!success) exit.set_failure_class(ham::v1::TRAINER_CRASH);
  return exit;
}

// TERM to KILL 15 s, flush limit 10 s, orphan limit 100 s, 2 s of flush at the end.
constexpr AssignmentOptions kOptions{.terminate_grace = absl::Seconds(15),
                                     .flush_limit = absl::Seconds(10),
                                     .orphan_limit = absl::Seconds(100),
                                     .shutdown_flush = absl::Seconds(2)};

// One line of a case: what happens; the actions that follow, separated by ", "; what is observed then. nullptr: not
// looked at. Events: desire RANK@SLOT..., progress RANK PHASE, exit RANK ok|failed [flushed], flushed RANK, told,
// fenced RANK, connected, disconnected, shutdown, kill, abandon, +SECONDS (passes time, and ticks).
struct Step {
  const char* event;
  const char* actions = "";
  const char* observed = nullptr;
};

struct Case {
  const char* name;
  std::vector<Step> steps;
};

class Script {
 public:
  Script() { core_.Connected(); }

  void Apply(const std::string& event) {
    const std::vector<std::string> words = absl::StrSplit(event, ' ');
    const std::string& verb = words[0];
    if (verb == "desire") {
      ham::v1::DesiredAssignments desired;
      for (size_t i = 1; i < words.size(); ++i) *desired.add_assignments() = ParseAssignment(words[i]);
      core_.Desire(desired, now_);
    } else if (verb == "progress") {
      ham::v1::Progress progress;
      progress.set_phase(words[2]);
      core_.Progressed(Id(words[1]), progress);
    } else if (verb == "exit") {
      core_.Exited(Id(words[1]), Exit(words[2] == "ok"), words.size() > 3, now_);
    } else if (verb == "flushed") {
      core_.Flushed(Id(words[1]));
    } else if (verb == "told") {
      core_.Told(core_.exits() - (words.size() > 1 ? 1 : 0));
    } else if (verb == "fenced") {
      core_.Fenced(Id(words[1]), now_);
    } else if (verb == "connected") {
      core_.Connected();
    } else if (verb == "disconnected") {
      core_.Disconnected(now_);
    } else if (verb == "shutdown") {
      core_.Shutdown(now_);
    } else if (verb == "kill") {
      core_.KillNow();
    } else if (verb == "abandon") {
      core_.Abandon(now_);
    } else if (verb[0] == '+') {
      now_ += absl::Seconds(std::stoi(verb.substr(1)));
      core_.Tick(now_);
    } else {
      FAIL() << "unknown event " << event;
    }
  }
  std::string Actions() {
    std::vector<std::string> texts;
    for (const Action& action : core_.TakeActions()) texts.push_back(Text(action));
    return absl::StrJoin(texts, ", ");
  }
  Assignments& core() { return core_; }

 private:
  absl::Duration now_ = absl::Seconds(1000);
  Assignments core_{kOptions, now_};
};

class AssignmentsTable : public ::testing::TestWithParam<Case> {};

TEST_P(AssignmentsTable, Holds) {
  Script script;
  for (const Step& step : GetParam().steps) {
    SCOPED_TRACE(step.event);
    script.Apply(step.event);
    EXPECT_EQ(script.Actions(), step.actions);
    if (step.observed != nullptr) {
      EXPECT_EQ(Text(script.core().Observed()), step.observed);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, AssignmentsTable,
    ::testing::Values(
        Case{"StartsWhatIsDesired",
             {{"desire a0@0 a1@1", "start a0, start a1", "a0:STARTING a1:STARTING"},
              {"progress a0 load", "", "a0:STARTING a1:STARTING"},
              {"progress a0 first_step", "", "a0:STARTING a1:STARTING"},
              {"progress a0 train", "", "a0:RUNNING a1:STARTING"},
              {"progress a1 evaluate", "", "a0:RUNNING a1:RUNNING"},
              {"progress a0 load", "", "a0:RUNNING a1:RUNNING"}}},
        Case{"TheSameSetAgainChangesNothing", {{"desire a0@0", "start a0"}, {"desire a0@0", ""}, {"desire a0@1", ""}}},
        Case{"HandsOnBlocksWhenTheyChange",
             {{"desire a0@0=01 a1@1", "start a0=01, start a1"},
              {"desire a0@0=01 a1@1", ""},
              {"desire a0@0=1 a1@1=2", "work a0=1, work a1=2"},
              {"progress a0 evaluate"},
              {"desire a0@0=10 a1@1", "work a0=10, work a1"},
              {"disconnected"},
              {"connected"},
              {"desire a0@0=10 a1@1", ""}}},
        Case{"AWaitingRankStartsWithTheNewestBlocks",
             {{"desire a0@0 b0@0=01", "start a0"},
              {"desire a0@0 b0@0=2", ""},
              {"exit a0 ok flushed", "start b0=2"},
              {"desire a0@0 b0@0=2", ""}}},
        Case{"ARankThatEndsGetsNoBlocks",
             {{"desire a0@0=0", "start a0=0"},
              {"desire", "term a0"},
              {"desire a0@0=1", ""},
              {"exit a0 failed flushed", ""},
              {"desire a0@0=2", "", "a0:EXITED/PREEMPTED"}}},
        Case{"EndsWhenItsRecordsAreAcknowledged",
             {{"desire a0@0", "start a0"},
              {"exit a0 ok", "", "a0:STARTING"},
              {"+1000", "", "a0:STARTING"},
              {"flushed a0", "", "a0:EXITED/OK"},
              {"flushed a0", "", "a0:EXITED/OK"},
              {"desire a0@0", "", "a0:EXITED/OK"},
              {"desire", "forget a0", ""}}},
        Case{"EndsAtOnceWhenNothingIsUnsent",
             {{"desire a0@0", "start a0"}, {"exit a0 ok flushed", "", "a0:EXITED/OK"}, {"desire", "forget a0", ""}}},
        Case{"AFailureWaitsOnlySoLongForItsRecords",
             {{"desire a0@0", "start a0"},
              {"exit a0 failed", "", "a0:STARTING"},
              {"+9", "", "a0:STARTING"},
              {"+1", "", "a0:EXITED/TRAINER_CRASH"}}},
        Case{"AFailureNobodyAsksForIsToldOnce",
             {{"desire a0@0", "start a0"},
              {"told", ""},
              {"exit a0 failed", "", "a0:STARTING"},
              {"desire", "", "a0:STARTING"},
              {"flushed a0", "", "a0:EXITED/TRAINER_CRASH"},
              {"told", "forget a0", ""}}},
        Case{"AFailureAfterABeatIsNotToldByIt",
             {{"desire a0@0", "start a0"},
              {"exit a0 failed flushed", "", "a0:EXITED/TRAINER_CRASH"},
              {"desire", "", "a0:EXITED/TRAINER_CRASH"},
              {"told of earlier", "", "a0:EXITED/TRAINER_CRASH"},
              {"told", "forget a0", ""}}},
        Case{"AFailureThatIsToldIsKeptWhileItIsAskedFor",
             {{"desire a0@0", "start a0"},
              {"exit a0 failed flushed", ""},
              {"told", "", "a0:EXITED/TRAINER_CRASH"},
              {"desire", "forget a0", ""}}},
        Case{"ARankNobodyWantsWaitsOnlySoLongForItsRecords",
             {{"desire a0@0", "start a0"},
              {"progress a0 train"},
              {"exit a0 ok", "", "a0:RUNNING"},
              {"+50"},
              {"desire", "", "a0:RUNNING"},
              {"+9", ""},
              {"desire", ""},  // said again: no more time for it
              {"+1", "forget a0", ""}}},
        Case{"StopsWhatIsNotDesired",
             {{"desire a0@0 b0@1", "start a0, start b0"},
              {"progress a0 train"},
              {"desire b0@1", "term a0", "a0:RUNNING b0:STARTING"},
              {"desire b0@1", ""},
              {"exit a0 failed flushed", "forget a0", "b0:STARTING"}}},
        Case{"KillsAfterTheGraceOnce",
             {{"desire a0@0", "start a0"},
              {"desire", "term a0"},
              {"+14", ""},
              {"+1", "kill a0"},
              {"+100", ""},
              {"exit a0 failed flushed", "forget a0", ""}}},
        Case{"DesiredAgainWhileItStopsIsReportedAsPreempted",
             {{"desire a0@0", "start a0"},
              {"desire", "term a0"},
              {"desire a0@0", ""},
              {"exit a0 failed flushed", "", "a0:EXITED/PREEMPTED"},
              {"desire", "forget a0"}}},
        Case{"SuccessWhileItStopsIsSuccess",
             {{"desire a0@0", "start a0"},
              {"desire", "term a0"},
              {"desire a0@0", ""},
              {"exit a0 ok flushed", "", "a0:EXITED/OK"}}},
        Case{"ANewAttemptWaitsForTheProcessBeforeItOnItsSlot",
             {{"desire a0@0", "start a0"},
              {"desire a0#2@0", "term a0", "a0:STARTING"},
              {"+15", "kill a0", "a0:STARTING"},
              {"exit a0 failed", "start a0#2", "a0:STARTING a0#2:STARTING"},  // its records need not wait
              {"flushed a0", "forget a0", "a0#2:STARTING"}}},
        Case{"AWaitingRankThatIsNoLongerDesiredNeverStarts",
             {{"desire a0@0", "start a0"},
              {"desire a0#2@0", "term a0"},
              {"desire", ""},
              {"exit a0 failed flushed", "forget a0", ""}}},
        Case{"TwoRanksOfOneSlotRunOneAfterTheOther",
             {{"desire a0@0 b0@0", "start a0", "a0:STARTING"},
              {"exit a0 ok flushed", "start b0", "a0:EXITED/OK b0:STARTING"}}},
        Case{"FencedIsStoppedAndItsRecordsAreNotWaitedFor",
             {{"desire a0@0", "start a0"},
              {"fenced a0", "term a0"},
              {"fenced a0", ""},
              {"exit a0 failed", "", "a0:EXITED/PREEMPTED"},
              {"desire", "forget a0", ""}}},
        Case{"FencedAfterItsEndIsEnoughToReportIt",
             {{"desire a0@0", "start a0"},
              {"exit a0 ok", "", "a0:STARTING"},
              {"fenced a0", "", "a0:EXITED/OK"},
              {"fenced a0", "", "a0:EXITED/OK"}}},
        Case{"WithoutContactRunsOnUpToTheOrphanLimit",
             {{"desire a0@0", "start a0"},
              {"disconnected"},
              {"+60", ""},
              {"disconnected"},  // another try that failed: no more time for it
              {"+39", ""},
              {"+1", "term a0"},
              {"+15", "kill a0"},
              {"exit a0 failed", "", "a0:STARTING"},
              {"+10", "", "a0:EXITED/PREEMPTED"},
              {"connected", "", "a0:EXITED/PREEMPTED"}}},
        Case{"ContactInTimeSavesTheRanks",
             {{"desire a0@0", "start a0"}, {"disconnected"}, {"+99", ""}, {"connected"}, {"+99", ""}, {"+999", ""}}},
        Case{"NothingIsStartedPastTheOrphanLimit",
             {{"desire a0@0", "start a0"},
              {"desire a0#2@0", "term a0"},
              {"disconnected"},
              {"+100", "kill a0"},
              {"exit a0 failed flushed", "forget a0"},
              {"+1", ""},
              {"connected", ""},
              {"desire a0#2@0", "start a0#2"}}},
        Case{"ShutdownStopsAllAndStartsNothing",
             {{"desire a0@0 b0@0 c0@1", "start a0, start c0"},
              {"shutdown", "term a0, term c0", "a0:STARTING c0:STARTING"},
              {"shutdown", ""},
              {"exit c0 failed flushed", "", "a0:STARTING c0:EXITED/PREEMPTED"},
              {"desire a0@0 d0@2", "forget c0"},
              {"+15", "kill a0"},
              {"exit a0 failed", "", "a0:STARTING"},
              {"+1", "", "a0:STARTING"},
              {"+1", "", "a0:EXITED/PREEMPTED"}}},
        Case{"ShutdownCutsTheWaitForRecordsShort",
             {{"desire a0@0", "start a0"},
              {"exit a0 ok", ""},
              {"shutdown", "", "a0:STARTING"},
              {"+2", "", "a0:EXITED/OK"}}},
        Case{"KillNowKillsWhatIsBeingStopped",
             {{"desire a0@0 b0@1", "start a0, start b0"},
              {"kill", ""},
              {"desire b0@1", "term a0"},
              {"kill", "kill a0"},
              {"shutdown", "term b0"},
              {"kill", "kill b0"},
              {"kill", ""},
              {"+100", ""}}},
        Case{"AbandonStopsAndForgetsAll",
             {{"desire a0@0 b0@1 c0@2 d0@3 e0@3", "start a0, start b0, start c0, start d0"},
              {"exit a0 ok flushed", "", "a0:EXITED/OK b0:STARTING c0:STARTING d0:STARTING"},
              {"exit b0 ok", ""},
              {"abandon", "forget a0, forget b0, term c0, term d0", "c0:STARTING d0:STARTING"},
              {"exit c0 failed", "forget c0", "d0:STARTING"},
              {"+15", "kill d0"},
              {"exit d0 failed", "forget d0", ""}}},
        Case{"FactsAboutStrangersAreIgnored",
             {{"exit z0 ok", "", ""},
              {"flushed z0", "", ""},
              {"fenced z0", "", ""},
              {"progress z0 train", "", ""},
              {"desire a0@0", "start a0"},
              {"flushed a0", "", "a0:STARTING"},
              {"exit a0 ok flushed", "", "a0:EXITED/OK"},
              {"exit a0 failed flushed", "", "a0:EXITED/OK"},
              {"progress a0 train", "", "a0:EXITED/OK"}}}),
    [](const ::testing::TestParamInfo<Case>& tested) { return tested.param.name; });

TEST(Assignments, NamesTheNextMomentAtWhichSomethingIsDue) {
  Assignments core(kOptions, absl::Seconds(0));
  EXPECT_EQ(core.NextTimer(), absl::InfiniteDuration());
  ham::v1::DesiredAssignments desired;
  *desired.add_assignments() = ParseAssignment("a0@0");
  core.Connected();
  core.Desire(desired, absl::Seconds(1));
  EXPECT_EQ(core.NextTimer(), absl::InfiniteDuration());
  core.Disconnected(absl::Seconds(5));
  EXPECT_EQ(core.NextTimer(), absl::Seconds(105));
  core.Connected();
  core.SetTerminateGrace(absl::Seconds(3));
  core.Desire({}, absl::Seconds(10));
  EXPECT_EQ(core.NextTimer(), absl::Seconds(13));
  core.Tick(absl::Seconds(13));
  EXPECT_EQ(core.NextTimer(), absl::InfiniteDuration());
  core.Exited(Id("a0"), Exit(false), false, absl::Seconds(14));
  EXPECT_EQ(core.NextTimer(), absl::Seconds(24));
  core.Tick(absl::Seconds(24));
  EXPECT_EQ(core.NextTimer(), absl::InfiniteDuration());
}

TEST(Assignments, SaysWhenABeatIsDue) {
  Script script;
  EXPECT_FALSE(script.core().TakeChanged());
  for (const char* event : {"desire a0@0", "progress a0 train", "exit a0 ok flushed", "desire"}) {
    script.Apply(event);
    EXPECT_TRUE(script.core().TakeChanged()) << event;
    EXPECT_FALSE(script.core().TakeChanged()) << event;
  }
  script.Apply("desire a0@0");
  script.core().TakeChanged();
  script.Apply("progress a0 load");
  script.Apply("exit a0 ok");
  EXPECT_FALSE(script.core().TakeChanged());
}

TEST(Assignments, SettlesOnceEveryExitIsReported) {
  Script script;
  EXPECT_TRUE(script.core().Settled());
  script.Apply("desire a0@0 b0@0");
  EXPECT_TRUE(script.core().has_processes());
  EXPECT_FALSE(script.core().Settled());
  script.Apply("shutdown");
  script.Apply("exit a0 failed");
  EXPECT_FALSE(script.core().has_processes());
  EXPECT_FALSE(script.core().Settled());
  script.Apply("flushed a0");
  EXPECT_TRUE(script.core().Settled());
}

// Processes that start, end and ignore signals as chance has it, under desired sets made by chance.
class RandomRun {
 public:
  explicit RandomRun(uint64_t seed) : random_(seed) {}

  void Run(int steps) {
    for (int i = 0; i < steps && !::testing::Test::HasFatalFailure(); ++i) Step();
    core_.Shutdown(now_);
    shutdown_ = true;
    for (int i = 0; i < 100 && !(core_.Settled() && !core_.has_processes()); ++i) {
      Act();
      for (const RankId& id : std::set<RankId>(killed_)) End(id);
      Act();
      if (core_.NextTimer() != absl::InfiniteDuration()) now_ = std::max(now_, core_.NextTimer());
      core_.Tick(now_);
    }
    Act();
    EXPECT_TRUE(core_.Settled());
    EXPECT_FALSE(core_.has_processes());
    EXPECT_TRUE(alive_.empty());
    core_.Desire({}, now_);  // nothing is wanted: all that was started is forgotten once its end is told
    core_.Told(core_.exits());
    Act();
    EXPECT_TRUE(kept_.empty());
    EXPECT_TRUE(core_.Observed().empty());
  }

 private:
  int Below(int n) { return std::uniform_int_distribution<int>(0, n - 1)(random_); }
  template <class Set>
  RankId Any(const Set& set) {
    return *std::next(set.begin(), Below(static_cast<int>(set.size())));
  }

  void Step() {
    switch (Below(10)) {
      case 0:
      case 1: {
        ham::v1::DesiredAssignments desired;
        for (int i = Below(5); i > 0; --i) {
          *desired.add_assignments() =
              ParseAssignment(absl::StrCat(std::string(1, static_cast<char>('a' + Below(3))), Below(2), "#",
                                           1 + Below(2), "@", Below(3), "=", Below(2)));
        }
        core_.Desire(desired, now_);
        break;
      }
      case 2:
        core_.Disconnected(now_);
        break;
      case 3:
        core_.Connected();
        break;
      case 4:
        if (!kept_.empty()) core_.Fenced(Any(kept_), now_);
        break;
      case 5:
        if (!kept_.empty()) core_.Flushed(Any(kept_));
        break;
      case 6:
        if (Below(20) == 0) core_.Abandon(now_);
        core_.Told(core_.exits());
        break;
      case 7:
        if (!alive_.empty()) End(Any(alive_));
        break;
      case 8:
        now_ += absl::Seconds(Below(12));
        break;
      default:
        if (core_.NextTimer() != absl::InfiniteDuration()) now_ = std::max(now_, core_.NextTimer());
    }
    core_.Tick(now_);
    EXPECT_GT(core_.NextTimer(), now_) << "a timer that is never done with";
    Act();
  }
  void End(const RankId& id) {
    alive_.erase(id);
    killed_.erase(id);
    slots_.erase(id);
    core_.Exited(id, Exit(Below(2) == 0), Below(2) == 0, now_);
  }
  void Act() {
    for (std::vector<Action> actions = core_.TakeActions(); !actions.empty(); actions = core_.TakeActions()) {
      for (const Action& action : actions) Act(action);
    }
  }
  void Act(const Action& action) {
    SCOPED_TRACE(Text(action));
    if (const auto* start = std::get_if<StartRank>(&action)) {
      const RankId id = IdOf(start->assignment);
      EXPECT_FALSE(shutdown_);
      EXPECT_TRUE(kept_.insert(id).second) << "started twice";
      for (const auto& [other, slot] : slots_) EXPECT_NE(slot, start->assignment.slot()) << "taken by " << Name(other);
      slots_[id] = start->assignment.slot();
      alive_.insert(id);
    } else if (const auto* terminate = std::get_if<TerminateRank>(&action)) {
      EXPECT_EQ(alive_.count(terminate->id), 1);
      if (Below(2) == 0) End(terminate->id);
    } else if (const auto* kill = std::get_if<KillRank>(&action)) {
      EXPECT_EQ(alive_.count(kill->id), 1);
      killed_.insert(kill->id);
    } else if (const auto* work = std::get_if<GiveWork>(&action)) {
      EXPECT_EQ(alive_.count(work->id), 1);
    } else {
      const RankId id = std::get<ForgetRank>(action).id;
      EXPECT_EQ(kept_.erase(id), 1) << "forgotten twice";
      EXPECT_EQ(alive_.count(id), 0) << "forgotten while it runs";
    }
  }

  std::mt19937_64 random_;
  absl::Duration now_ = absl::Seconds(1);
  Assignments core_{kOptions, now_};
  std::set<RankId> kept_;   // started, not forgotten
  std::set<RankId> alive_;  // of these, with a process
  std::set<RankId> killed_;
  std::map<RankId, int> slots_;
  bool shutdown_ = false;
};

TEST(Assignments, RandomRunsKeepTheRules) {
  const uint64_t first = std::random_device()();
  for (uint64_t seed = first; seed < first + 300 && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    RandomRun(seed).Run(200);
  }
}

}  // namespace
}  // namespace ham::agent

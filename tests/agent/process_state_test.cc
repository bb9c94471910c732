#include "worker/agent/process_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <ctime>
#include <fstream>
#include <limits>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"

namespace ham::agent {
namespace {

using ham::v1::ProcessState;

// With the name, the state, and times of 250 and 50 ticks.
std::string Line(const std::string& name, const std::string& state = "S") {
  return absl::StrCat(
      "4711 (", name, ") ", state,
      " 1 4711 4711 0 -1 4194560 812 0 3 0 250 50 9 9 20 0 17 0 88776655 1000000 2000 18446744073709551615"
      " 1 1 0 0 0 0 0 4096 1260 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n");
}

TEST(ParseStatLine, GivesNameStateAndTimes) {
  for (const char* name : {"ham-trainer", "a b", "x) S 1 (y", ") D (", "(((", ")))", "", "line\nfeed", "\xFF"}) {
    const auto stat = ParseStatLine(Line(name, "t"), 100);
    ASSERT_TRUE(stat) << name;
    EXPECT_EQ(stat->name, name);
    EXPECT_EQ(stat->state, 't');
    EXPECT_EQ(stat->cpu_seconds, 3);
  }
}

TEST(ParseStatLine, RefusesWhatIsNone) {
  const std::string whole = Line("name");
  for (const std::string& text : {std::string(), std::string("4711"), std::string("4711 (name"),
                                  std::string("4711 name) S"), std::string(")("), Line("name", "SS"), Line("name", ""),
                                  whole.substr(0, whole.find(" 250")), whole.substr(0, whole.find(" 50 "))}) {
    EXPECT_FALSE(ParseStatLine(text, 100)) << text;
  }
  std::string wrong = whole;
  wrong.replace(wrong.find("250"), 3, "2x0");
  EXPECT_FALSE(ParseStatLine(wrong, 100));
}

TEST(ParseStatLine, RandomBytesNeverCrash) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937_64 random(seed);
  for (int i = 0; i < 5000; ++i) {
    std::string text = Line("name");
    for (uint64_t changes = 1 + random() % 5; changes > 0; --changes)
      text[random() % text.size()] = "() S9\n\0-"[random() % 8];
    text.resize(random() % text.size());
    const auto stat = ParseStatLine(text, 100);
    if (stat) {
      EXPECT_LT(stat->cpu_seconds, std::numeric_limits<double>::infinity());
    }
  }
}

TEST(StateOfProcess, FollowsItsThreads) {
  EXPECT_EQ(StateOfProcess('R', {}), ProcessState::ACTIVE);
  EXPECT_EQ(StateOfProcess('S', {'D', 'T'}), ProcessState::ACTIVE);
  EXPECT_EQ(StateOfProcess('D', {'R'}), ProcessState::BLOCKED);
  EXPECT_EQ(StateOfProcess('T', {}), ProcessState::STOPPED);
  EXPECT_EQ(StateOfProcess('T', {'T', 't'}), ProcessState::STOPPED);
  EXPECT_EQ(StateOfProcess('t', {'T', 'R'}), ProcessState::ACTIVE);
  EXPECT_EQ(StateOfProcess('Z', {}), std::nullopt);
  EXPECT_EQ(StateOfProcess('X', {}), std::nullopt);
}

TEST(ReadProcessState, OfThisProcessAndOfNone) {
  // More than a tick of work.
  volatile uint64_t sum = 0;
  while (::clock() < CLOCKS_PER_SEC / 20) sum = sum + 1;
  const auto state = ReadProcessState(::getpid());
  ASSERT_TRUE(state);
  EXPECT_EQ(state->state(), ProcessState::ACTIVE);
  EXPECT_GT(state->cpu_seconds(), 0);
  EXPECT_FALSE(ReadProcessState(std::numeric_limits<pid_t>::max()));
}

TEST(ReadThreads, NamesThisOne) {
  std::string name;
  std::getline(std::ifstream("/proc/self/comm"), name);
  const auto threads = ReadThreads(::getpid());
  ASSERT_FALSE(threads.empty());
  EXPECT_EQ(threads[0].id, ::getpid());
  EXPECT_EQ(threads[0].stat.name, name);
  EXPECT_EQ(threads[0].stat.state, 'R');
  EXPECT_TRUE(ReadThreads(std::numeric_limits<pid_t>::max()).empty());
}

}  // namespace
}  // namespace ham::agent

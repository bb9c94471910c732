#include "client/text.h"

#include <gtest/gtest.h>

#include <limits>

namespace ham::client {
namespace {

TEST(Percent, HasOneDigitAndADashForNothing) {
  EXPECT_EQ(Percent(0.5731), "57.3 %");
  EXPECT_EQ(Percent(1), "100.0 %");
  EXPECT_EQ(Percent(std::numeric_limits<double>::quiet_NaN()), "-");
}

TEST(ShortDuration, UsesTheTwoLargestUnits) {
  EXPECT_EQ(ShortDuration(absl::Seconds(-3)), "0s");
  EXPECT_EQ(ShortDuration(absl::Seconds(59)), "59s");
  EXPECT_EQ(ShortDuration(absl::Seconds(60)), "1m 00s");
  EXPECT_EQ(ShortDuration(absl::Seconds(3661)), "1h 01m");
  EXPECT_EQ(ShortDuration(absl::Hours(49)), "2d 1h");
}

TEST(ShortName, IsWhatFollowsTheLastSlash) {
  EXPECT_EQ(ShortName("projects/default/jobs/j1"), "j1");
  EXPECT_EQ(ShortName("j1"), "j1");
}

TEST(ShellWord, QuotesWhatAShellWouldTakeApart) {
  EXPECT_EQ(ShellWord("build/bin/hamctl"), "build/bin/hamctl");
  EXPECT_EQ(ShellWord("sp ace/c.json"), "'sp ace/c.json'");
  EXPECT_EQ(ShellWord("it's"), "'it'\\''s'");
  EXPECT_EQ(ShellWord(""), "''");
}

TEST(Printable, TakesControlCharactersAway) {
  EXPECT_EQ(Printable("a\033[2Jb\r\x7F"), "a?[2Jb??");
  EXPECT_EQ(Printable("line\n\ttab"), "line\n\ttab");
  EXPECT_EQ(Printable("\xC2\x9B"
                      "2J"),
            "?2J");  // the one-character form of ESC [
  EXPECT_EQ(Printable("Tür ░"), "Tür ░");
}

TEST(Clip, CountsCodePoints) {
  EXPECT_EQ(Width("Tür ░"), 5u);
  EXPECT_EQ(Clip("Tür ░", 2), "Tü");
  EXPECT_EQ(Clip("ab", 5), "ab");
  EXPECT_EQ(Clip("ab", 0), "");
}

TEST(Table, AlignsColumnsAndEndsLinesCleanly) {
  EXPECT_EQ(Table({{"A", "LONG"}, {"ü", "1"}, {"abc", ""}}),
            "A    LONG\n"
            "ü    1\n"
            "abc\n");
  EXPECT_EQ(Table({}), "");
  EXPECT_EQ(Table({{"a\nb\033[2J"}}), "a b?[2J\n");
}

}  // namespace
}  // namespace ham::client

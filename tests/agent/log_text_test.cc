#include "worker/agent/log_text.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace ham::agent {
namespace {

using Pieces = std::vector<std::string>;

constexpr char kReplacement[] = "\xEF\xBF\xBD";

// All at once, joined.
std::string Clean(const std::string& bytes) {
  LogText text;
  Pieces pieces = text.Add(bytes);
  for (std::string& piece : text.Finish()) pieces.push_back(std::move(piece));
  return absl::StrJoin(pieces, "");
}

TEST(LogText, GivesWholeLinesAndKeepsTheRest) {
  LogText text;
  EXPECT_EQ(text.Add("one\ntwo\nthr"), Pieces{"one\ntwo\n"});
  EXPECT_EQ(text.Add("ee"), Pieces{});
  EXPECT_EQ(text.Add("\nfour"), Pieces{"three\n"});
  EXPECT_EQ(text.Finish(), Pieces{"four"});
  EXPECT_EQ(text.Finish(), Pieces{});
}

TEST(LogText, PutsTogetherACharacterThatWasCut) {
  const std::string line = "\xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80\n";
  for (size_t cut = 0; cut <= line.size(); ++cut) {
    LogText text;
    Pieces pieces = text.Add(line.substr(0, cut));
    for (std::string& piece : text.Add(line.substr(cut))) pieces.push_back(std::move(piece));
    EXPECT_EQ(absl::StrJoin(pieces, ""), line) << cut;
    EXPECT_EQ(text.Finish(), Pieces{}) << cut;
  }
}

TEST(LogText, ReplacesWhatIsNoUtf8) {
  const std::string r = kReplacement;
  EXPECT_EQ(Clean("a\xFFz"), "a" + r + "z");
  EXPECT_EQ(Clean("\x80\x80"), r + r);                  // continuations of nothing
  EXPECT_EQ(Clean("\xC0\xAF"), r + r);                  // '/' in two bytes
  EXPECT_EQ(Clean("\xE0\x80\xAF"), r + r + r);          // in three
  EXPECT_EQ(Clean("\xED\xA0\x80"), r + r + r);          // a surrogate
  EXPECT_EQ(Clean("\xF4\x90\x80\x80"), r + r + r + r);  // beyond U+10FFFF
  EXPECT_EQ(Clean("\xE2\x82z"), r + "z");               // the beginning of a character is one error
  EXPECT_EQ(Clean("\xE2\x82"), r);                      // the same, at the end
  EXPECT_EQ(Clean(std::string("a\0b", 3)), std::string("a\0b", 3));
}

TEST(LogText, SplitsALongLineBetweenCharacters) {
  LogText text(16);
  std::string line;
  for (int i = 0; i < 20; ++i) line += "\xE2\x82\xAC";
  Pieces pieces = text.Add(line + "\n");
  for (const std::string& piece : pieces) {
    EXPECT_LE(piece.size(), 16);
    EXPECT_EQ(Clean(piece), piece);
  }
  EXPECT_EQ(absl::StrJoin(pieces, ""), line + "\n");
}

TEST(LogText, ALineOfJustTheLimitIsOnePiece) {
  LogText text(16);
  EXPECT_EQ(text.Add("123456789012345\n"), Pieces{"123456789012345\n"});
  EXPECT_EQ(text.Add("1234567890123456\n"), (Pieces{"1234567890123456", "\n"}));
}

// However the stream is cut, the text is that of the whole, in valid pieces of bounded size.
TEST(LogText, RandomStreamsComeOutTheSameHoweverTheyAreCut) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937_64 random(seed);
  const std::vector<std::string> parts = {"a",    "\n",   "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80",
                                          "\xE2", "\x82", "\xF0\x9F", "\xFF",         "\xED\xA0",
                                          "word "};
  for (int run = 0; run < 200; ++run) {
    std::string bytes;
    for (int i = 0; i < 300; ++i) bytes += parts[random() % parts.size()];
    LogText text(16 + random() % 64);
    Pieces pieces;
    for (size_t at = 0; at < bytes.size();) {
      const size_t size = 1 + random() % 20;
      for (std::string& piece : text.Add(bytes.substr(at, size))) pieces.push_back(std::move(piece));
      at += size;
    }
    for (std::string& piece : text.Finish()) pieces.push_back(std::move(piece));
    ASSERT_EQ(absl::StrJoin(pieces, ""), Clean(bytes));
    for (const std::string& piece : pieces) {
      ASSERT_LE(piece.size(), 80);
      ASSERT_FALSE(piece.empty());
      ASSERT_EQ(Clean(piece), piece);
    }
  }
}

}  // namespace
}  // namespace ham::agent

#include "proto/utf8.h"

#include <gtest/gtest.h>

namespace ham {
namespace {

TEST(CutUtf8, EndsBetweenCharacters) {
  const std::string text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z";  // of 1, 2, 3, 4, 1 bytes
  const size_t ends[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11, 11};
  for (size_t most = 0; most < std::size(ends); ++most) EXPECT_EQ(CutUtf8(text, most).size(), ends[most]) << most;
}

TEST(Shortened, ShowsWhatIsMissing) {
  EXPECT_EQ(Shortened("abc", 3), "abc");
  EXPECT_EQ(Shortened("abcd", 3), "abc...");
  EXPECT_EQ(Shortened("", 0), "");
}

}  // namespace
}  // namespace ham

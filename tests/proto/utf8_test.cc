#include "proto/utf8.h"

#include <gtest/gtest.h>

namespace ham {
namespace {

TEST(IsUtf8, KnowsWholeCharactersOnly) {
  for (const char* good : {"", "a", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\xEF\xBF\xBD"}) {
    EXPECT_TRUE(IsUtf8(good)) << good;
  }
  for (const char* bad : {"\x80", "\xC3", "a\xC3", "\xC0\xAF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80",
                          "\xF8\x88\x80\x80\x80", "\xFF",
                          "\xE2\x82"
                          "a"}) {
    EXPECT_FALSE(IsUtf8(bad)) << bad;
  }
}

TEST(CutUtf8, EndsBetweenCharacters) {
  const std::string text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z";  // of 1, 2, 3, 4, 1 bytes
  const size_t ends[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11, 11};
  for (size_t most = 0; most < std::size(ends); ++most) EXPECT_EQ(CutUtf8(text, most).size(), ends[most]) << most;
}

TEST(Shown, CutsBetweenCharactersAndSaysSo) {
  EXPECT_EQ(Shown("short"), "short");
  EXPECT_EQ(Shown("12345", 5), "12345");
  EXPECT_EQ(Shown("123456", 5), "12345...");
  EXPECT_EQ(Shown("abc\xC3\xA9", 4), "abc...");
  EXPECT_EQ(Shown("a\xFF"
                  "b\xC3",
                  4),
            "a?b?");
}

}  // namespace
}  // namespace ham

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

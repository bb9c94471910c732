#include "server/utf8.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ham::server {
namespace {

using ::testing::ElementsAre;

TEST(SplitUtf8, CutsAtTheEndOfALineThatIsNear) {
  EXPECT_THAT(SplitUtf8("", 8), ElementsAre(""));
  EXPECT_THAT(SplitUtf8("12345678", 8), ElementsAre("12345678"));
  EXPECT_THAT(SplitUtf8("1234\n678\nabc", 8), ElementsAre("1234\n", "678\nabc"));
  EXPECT_THAT(SplitUtf8("1\n34567890", 8), ElementsAre("1\n345678", "90"));  // too far back
  EXPECT_THAT(SplitUtf8("1234567\n1234567\n", 8), ElementsAre("1234567\n", "1234567\n"));
}

TEST(SplitUtf8, BreaksNoCharacter) {
  std::string text;
  for (int i = 0; i < 50; ++i) text += i % 2 == 0 ? "\xE2\x82\xAC" : "\xF0\x9F\x98\x80";
  for (size_t most = 4; most < 30; ++most) {
    std::string whole;
    for (const std::string& piece : SplitUtf8(text, most)) {
      EXPECT_LE(piece.size(), most);
      EXPECT_NE(static_cast<unsigned char>(piece[0]) & 0xC0, 0x80u);
      whole += piece;
    }
    EXPECT_EQ(whole, text);
  }
}

}  // namespace
}  // namespace ham::server

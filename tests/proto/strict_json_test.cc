#include "proto/strict_json.h"

#include <gtest/gtest.h>

namespace ham {
namespace {

using nlohmann::json;

TEST(ParseStrictJsonTest, SaysWhatIsWrong) {
  EXPECT_NE(ParseStrictJson(R"({"a":1,"a":2})").status().message().find("\"a\" stands twice"), std::string::npos);
  EXPECT_NE(ParseStrictJson("[null]").status().message().find("null"), std::string::npos);
  EXPECT_TRUE(absl::IsInvalidArgument(ParseStrictJson("[1] 2").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ParseStrictJson(std::string(100000, '[')).status()));
  EXPECT_EQ(*ParseStrictJson(R"([{"a":1},{"a":{"a":[]}}])"), json::parse(R"([{"a":1},{"a":{"a":[]}}])"));
}

TEST(Base64Test, RoundTripsAllBytesAndRefusesOtherText) {
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  for (size_t size : {0, 1, 2, 3, 4, 255, 256}) {
    const std::string bytes = all.substr(0, size);
    EXPECT_EQ(*Base64Decode(Base64Encode(bytes)), bytes);
  }
  EXPECT_EQ(Base64Encode("ham"), "aGFt");
  for (const char* text : {"a", "aGF", "aG Ft", "aGFt\n", "aGF*", "-_8=", "aGFt=", "aGF1a=="}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Base64Decode(text).status())) << text;
  }
}

}  // namespace
}  // namespace ham

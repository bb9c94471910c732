#include "proto/channel.h"

#include <gtest/gtest.h>

#include "proto/backoff.h"

namespace ham {
namespace {

TEST(ConnectionConfig, SurvivesJson) {
  const ConnectionConfig config = {{"a:1", "b:2"}, "PEM", "secret"};
  const auto parsed = ParseConnectionConfig(ConnectionConfigToJson(config));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->endpoints, config.endpoints);
  EXPECT_EQ(parsed->ca_certificate, "PEM");
  EXPECT_EQ(parsed->token, "secret");
}

TEST(ConnectionConfig, RefusesWhatItCannotUse) {
  for (const char* text : {"", "[]", "{}", "nonsense", R"({"endpoints":[],"ca_certificate":"","token":"t"})",
                           R"({"endpoints":[1],"ca_certificate":"x","token":"t"})",
                           R"({"endpoints":["a:1"],"ca_certificate":"x","token":""})",
                           R"({"endpoints":["a:1"],"ca_certificate":"x","token":"t","more":1})",
                           R"({"endpoints":["example.org:1"],"ca_certificate":"","token":"t"})"}) {
    EXPECT_EQ(ParseConnectionConfig(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(ConnectionConfig, NamesAMissingFile) {
  const auto config = ReadConnectionConfig("/nonexistent/bootstrap");
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(config.status().message().find("/nonexistent/bootstrap"), absl::string_view::npos);
}

TEST(IsLoopback, KnowsLoopbackAddressesOnly) {
  for (const char* yes : {"localhost", "localhost:1", "127.0.0.1:7480", "127.9.9.9", "::1", "[::1]:80"}) {
    EXPECT_TRUE(IsLoopback(yes)) << yes;
  }
  for (const char* no : {"example.org:1", "10.0.0.1:1", "[2001:db8::1]:80", "0.0.0.0:1", "", "127.example.org:1",
                         "127.0.0.1.example.org", "[::1]example.org:1", "[::1"}) {
    EXPECT_FALSE(IsLoopback(no)) << no;
  }
}

TEST(Backoff, GrowsToItsCapWithinItsJitter) {
  Backoff backoff({.initial = absl::Seconds(1), .cap = absl::Seconds(3), .factor = 2, .jitter = 0.2});
  EXPECT_EQ(backoff.Next(0.5), absl::Seconds(1));
  EXPECT_EQ(backoff.Next(0.5), absl::Seconds(2));
  EXPECT_EQ(backoff.Next(0.5), absl::Seconds(3));
  EXPECT_EQ(backoff.Next(0.0), absl::Seconds(3) * 0.8);
  backoff.Reset();
  EXPECT_LT(backoff.Next(0.999), absl::Seconds(1.2));
}

}  // namespace
}  // namespace ham

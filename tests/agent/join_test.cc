#include "worker/agent/join.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace ham::agent {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const std::string kDigest(64, 'a');
const std::string kToken = kDigest + ".s3cret-_=";

TEST(ParseJoinAddress, TakesHostsWithAndWithoutAPort) {
  for (const auto& [host, endpoint] :
       std::vector<std::pair<std::string, std::string>>{{"gpu.example", "gpu.example:7480"},
                                                        {"gpu.example:99", "gpu.example:99"},
                                                        {"10.0.0.1", "10.0.0.1:7480"},
                                                        {"[::1]", "[::1]:7480"},
                                                        {"[::1]:99", "[::1]:99"}}) {
    const absl::StatusOr<JoinAddress> address = ParseJoinAddress(absl::StrCat(kToken, "@", host));
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(address->endpoint, endpoint);
    EXPECT_EQ(address->token.ca_digest, kDigest);
    EXPECT_EQ(address->token.secret, "s3cret-_=");
  }
}

TEST(ParseJoinAddress, RefusesAllElseWithoutRepeatingTheSecret) {
  for (const std::string& text :
       std::vector<std::string>{"", kToken, kToken + "@", "@host", kDigest + "@host", kDigest + ".@host",
                                "ab.s3cret@host", kDigest + ".s3cret!@host", kDigest + ".s3 cret@host", kToken + "@a@b",
                                kToken + "@http://a", kDigest + "." + std::string(10000, 's') + "@host"}) {
    const absl::Status status = ParseJoinAddress(text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("s3cret")));
  }
}

TEST(FetchConnectionConfig, SaysThatNobodyAnswers) {
  for (const std::string endpoint : {"127.0.0.1:1", "no-such-host.invalid:7480", "127.0.0.1:notaport"}) {
    const absl::Status status = FetchConnectionConfig({{kDigest, "s"}, endpoint}, absl::Seconds(5)).status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(endpoint));
  }
}

}  // namespace
}  // namespace ham::agent

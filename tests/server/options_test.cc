#include "server/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ham::server {
namespace {

using ::testing::HasSubstr;

TEST(CheckOptions, AllowsInsecureOnLoopbackAlone) {
  ServerOptions options;
  options.insecure = true;
  options.advertise = {"localhost", "127.0.0.1", "::1"};
  EXPECT_TRUE(CheckOptions(options).ok()) << CheckOptions(options);
  options.advertise.push_back("gpu.example");  // its bootstrap file would be refused at the next start
  EXPECT_THAT(std::string(CheckOptions(options).message()), HasSubstr("--advertise is gpu.example"));
  options.insecure = false;
  EXPECT_TRUE(CheckOptions(options).ok());
  options.insecure = true;
  options.advertise.clear();
  options.listen = "0.0.0.0:7480";
  EXPECT_TRUE(absl::IsInvalidArgument(CheckOptions(options)));
}

TEST(CheckOptions, BoundsTheHangBound) {
  ServerOptions options;
  options.hang_bound = absl::Milliseconds(999);
  EXPECT_THAT(std::string(CheckOptions(options).message()), HasSubstr("--hang-bound 999ms is out of range"));
  options.hang_bound = absl::Hours(1);
  EXPECT_TRUE(CheckOptions(options).ok());
}

}  // namespace
}  // namespace ham::server

#include "worker/agent/local_address.h"

#include <gtest/gtest.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>

namespace ham::agent {
namespace {

// An IPv4 address of this host that is not loopback; "" if there is none.
std::string OuterAddress() {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return "";
  std::string out;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != AF_INET || (entry->ifa_flags & IFF_LOOPBACK) != 0) {
      continue;
    }
    char text[NI_MAXHOST];
    if (::getnameinfo(entry->ifa_addr, sizeof(sockaddr_in), text, sizeof(text), nullptr, 0, NI_NUMERICHOST) == 0) {
      out = text;
    }
  }
  ::freeifaddrs(list);
  return out;
}

TEST(LocalAddress, TowardsLoopbackIsLoopback) {
  EXPECT_EQ(LocalAddressTowards("127.0.0.1:8470").value(), "127.0.0.1");
  EXPECT_EQ(LocalAddressTowards("127.8.8.8:8470").value(), "127.0.0.1");
}

TEST(LocalAddress, TowardsAnotherAddressIsOneThatOthersReach) {
  const std::string own = OuterAddress();
  if (own.empty()) GTEST_SKIP() << "this host has no address but loopback";
  EXPECT_EQ(LocalAddressTowards(own + ":8470").value(), own);
}

TEST(LocalAddress, TextThatIsNoEndpointIsRefused) {
  for (const char* endpoint : {"", "host", ":8470", "host:"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(LocalAddressTowards(endpoint).status())) << endpoint;
  }
  EXPECT_TRUE(absl::IsUnavailable(LocalAddressTowards("no-such-host.invalid:8470").status()));
}

}  // namespace
}  // namespace ham::agent

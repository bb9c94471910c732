#include "proto/service_notice.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>

#include "gtest/gtest.h"
#include "tests/support/temporary_directory.h"

namespace ham {
namespace {

class ServiceNoticeTest : public ::testing::Test {
 protected:
  ~ServiceNoticeTest() override {
    for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) unsetenv(name);
  }
};

// The manager's end of NOTIFY_SOCKET.
class Manager {
 public:
  Manager() : socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    const std::string path = directory_.path() + "/notify";
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    EXPECT_EQ(::bind(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    setenv("NOTIFY_SOCKET", path.c_str(), 1);
  }
  ~Manager() { ::close(socket_); }

  // The next notice; "" where there is none.
  std::string Heard() {
    std::array<char, 256> text;
    const ssize_t length = ::recv(socket_, text.data(), text.size(), MSG_DONTWAIT);
    return length < 0 ? "" : std::string(text.data(), length);
  }

 private:
  testing::TemporaryDirectory directory_;
  const int socket_;
};

TEST_F(ServiceNoticeTest, TellsTheManager) {
  Manager manager;
  NotifyReady();
  NotifyAlive();
  NotifyStopping();
  EXPECT_EQ(manager.Heard(), "READY=1");
  EXPECT_EQ(manager.Heard(), "WATCHDOG=1");
  EXPECT_EQ(manager.Heard(), "STOPPING=1");
  EXPECT_EQ(manager.Heard(), "");
}

TEST_F(ServiceNoticeTest, NoManagerAndOneThatIsGoneAreNoErrors) {
  NotifyReady();
  setenv("NOTIFY_SOCKET", "/nonexistent/notify", 1);
  NotifyReady();
  NotifyAlive();
}

TEST_F(ServiceNoticeTest, WatchdogPeriodIsAQuarterOfWhatTheManagerWaits) {
  setenv("WATCHDOG_USEC", "3000000", 1);
  EXPECT_EQ(WatchdogPeriod(), absl::Milliseconds(750));
  setenv("WATCHDOG_PID", std::to_string(getpid()).c_str(), 1);
  EXPECT_EQ(WatchdogPeriod(), absl::Milliseconds(750));
}

TEST_F(ServiceNoticeTest, NobodyWatches) {
  EXPECT_EQ(WatchdogPeriod(), absl::InfiniteDuration());
  // What a parent's manager asked of the parent is not for this process.
  setenv("WATCHDOG_USEC", "3000000", 1);
  setenv("WATCHDOG_PID", std::to_string(getppid()).c_str(), 1);
  EXPECT_EQ(WatchdogPeriod(), absl::InfiniteDuration());
}

}  // namespace
}  // namespace ham

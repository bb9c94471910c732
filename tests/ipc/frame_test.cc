#include "worker/ipc/frame.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <string>
#include <thread>

namespace ham::ipc {
namespace {

using nlohmann::json;

class FrameTest : public ::testing::Test {
 protected:
  FrameTest() { EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds_), 0); }
  ~FrameTest() override {
    CloseWriter();
    ::close(fds_[1]);
  }
  void CloseWriter() {
    if (fds_[0] >= 0) ::close(fds_[0]);
    fds_[0] = -1;
  }
  void Send(const std::string& bytes) {
    ASSERT_EQ(::send(fds_[0], bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  static std::string Header(uint32_t size) {
    std::string header;
    for (int i = 0; i < 4; ++i) header += static_cast<char>(size >> (8 * i));
    return header;
  }
  static std::string Frame(const std::string& text) { return Header(static_cast<uint32_t>(text.size())) + text; }
  absl::Status Receive(const std::string& bytes) {
    Send(bytes);
    CloseWriter();
    return ReadFrame(fds_[1]).status();
  }

  int fds_[2] = {-1, -1};  // writer, reader
};

TEST_F(FrameTest, RoundTripsAndKeepsOrder) {
  const json first = {{"type", "metric"}, {"point", {{"loss", 0.1}, {"n", "NaN"}, {"big", 18446744073709551615ULL}}}};
  ASSERT_TRUE(WriteFrame(fds_[0], first).ok());
  ASSERT_TRUE(WriteFrame(fds_[0], {{"type", "done"}}).ok());
  const auto a = ReadFrame(fds_[1]);
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_EQ(*a, first);
  EXPECT_EQ(ReadFrame(fds_[1])->at("type"), "done");
  CloseWriter();
  EXPECT_TRUE(absl::IsOutOfRange(ReadFrame(fds_[1]).status()));
}

TEST_F(FrameTest, WritesTheLengthLittleEndianFirst) {
  ASSERT_TRUE(WriteFrame(fds_[0], {{"type", "x"}}).ok());
  CloseWriter();
  char bytes[64];
  const ssize_t n = ::read(fds_[1], bytes, sizeof bytes);
  EXPECT_EQ(std::string(bytes, static_cast<size_t>(n)), std::string("\x0c\0\0\0{\"type\":\"x\"}", 16));
}

TEST_F(FrameTest, CarriesTheLongestFrameAndRefusesALongerOne) {
  json message = {{"type", "x"}, {"pad", ""}};
  message["pad"] = std::string(kMaxFrameBytes - message.dump().size(), 'a');
  ASSERT_EQ(message.dump().size(), kMaxFrameBytes);
  absl::Status written;
  std::thread writer([&] { written = WriteFrame(fds_[0], message); });
  const auto read = ReadFrame(fds_[1]);
  writer.join();
  EXPECT_TRUE(written.ok()) << written;
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, message);
  message["pad"] = message["pad"].get<std::string>() + "a";
  EXPECT_TRUE(absl::IsInternal(WriteFrame(fds_[0], message)));
}

TEST_F(FrameTest, RefusesAHugeAnnouncedLengthWithoutReadingOn) {
  EXPECT_TRUE(absl::IsInvalidArgument(Receive(Header(kMaxFrameBytes + 1))));
}

TEST_F(FrameTest, RefusesTheLargestAnnouncedLength) {
  EXPECT_TRUE(absl::IsInvalidArgument(Receive(Header(0xffffffffU))));
}

TEST_F(FrameTest, EveryCutIsSeen) {
  const std::string whole = Frame(R"({"type":"progress","tick":17})");
  for (size_t size = 1; size < whole.size(); ++size) {
    int pair[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    ASSERT_EQ(::send(pair[0], whole.data(), size, 0), static_cast<ssize_t>(size));
    ::close(pair[0]);
    const absl::Status status = ReadFrame(pair[1]).status();
    ::close(pair[1]);
    EXPECT_TRUE(absl::IsUnavailable(status)) << "cut at " << size << ": " << status;
  }
}

TEST_F(FrameTest, RefusesWhatIsNoFrame) {
  for (const char* text : {"", "{", "[]", "7", "null", "\"type\"", "{}", R"({"type":7})", R"({"type":null})",
                           R"({"type":"x"} )"
                           "x",
                           R"({"type":"x","a":null})", R"({"type":"x","a":[1,null,2]})", R"({"type":"x","type":"y"})",
                           R"({"type":"x","a":{"b":1,"b":1}})", R"({"type":"x","a":NaN})", "{\"type\":\"\xff\"}",
                           R"({"type":"x",})", R"({"type":"x"/*c*/})"}) {
    int pair[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    const std::string bytes = Frame(text);
    ASSERT_EQ(::send(pair[0], bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    const absl::Status status = ReadFrame(pair[1]).status();
    ::close(pair[0]);
    ::close(pair[1]);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text << ": " << status;
  }
}

TEST_F(FrameTest, WritingToAPeerThatIsGoneIsAnErrorAndNotASignal) {
  ::close(fds_[1]);
  fds_[1] = ::dup(fds_[0]);  // for the destructor
  struct sigaction before {};
  struct sigaction fatal {};
  fatal.sa_handler = SIG_DFL;
  ASSERT_EQ(::sigaction(SIGPIPE, &fatal, &before), 0);
  EXPECT_TRUE(absl::IsUnavailable(WriteFrame(fds_[0], {{"type", "x"}})));
  ASSERT_EQ(::sigaction(SIGPIPE, &before, nullptr), 0);
}

TEST_F(FrameTest, RefusesTextThatIsNotUtf8) { EXPECT_TRUE(absl::IsInternal(WriteFrame(fds_[0], {{"type", "\xff"}}))); }

TEST_F(FrameTest, ABadDescriptorIsUnavailable) {
  EXPECT_TRUE(absl::IsUnavailable(ReadFrame(-1).status()));
  EXPECT_TRUE(absl::IsUnavailable(WriteFrame(-1, {{"type", "x"}})));
}

std::atomic<int> g_interrupts{0};

TEST_F(FrameTest, SignalsDoNotDisturbReadingOrWriting) {
  struct sigaction before {};
  struct sigaction count {};
  count.sa_handler = [](int) { ++g_interrupts; };  // without SA_RESTART
  ASSERT_EQ(::sigaction(SIGUSR1, &count, &before), 0);
  g_interrupts = 0;
  const json message = {{"type", "x"}, {"pad", std::string(kMaxFrameBytes / 2, 'b')}};
  absl::Status written;
  absl::StatusOr<json> read = absl::UnknownError("");
  std::atomic<bool> reading{false};
  std::thread reader([&] {
    reading = true;
    read = ReadFrame(fds_[1]);
  });
  while (!reading || g_interrupts < 50) {
    pthread_kill(reader.native_handle(), SIGUSR1);
    std::this_thread::yield();
  }
  std::atomic<bool> finished{false};
  std::thread writer([&] {
    written = WriteFrame(fds_[0], message);
    finished = true;
  });
  while (!finished) {
    pthread_kill(writer.native_handle(), SIGUSR1);
    std::this_thread::yield();
  }
  writer.join();
  reader.join();
  ASSERT_EQ(::sigaction(SIGUSR1, &before, nullptr), 0);
  EXPECT_GE(g_interrupts, 50);
  EXPECT_TRUE(written.ok()) << written;
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, message);
}

}  // namespace
}  // namespace ham::ipc

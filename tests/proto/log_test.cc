#include "proto/log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <csignal>
#include <ctime>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>

namespace ham {
namespace {

using nlohmann::json;
using ::testing::MatchesRegex;

// What this writes to standard error.
std::string Lines(LogFormat format, const std::function<void()>& log) {
  ::testing::internal::CaptureStderr();
  StartLog("ham-test", format);
  log();
  spdlog::default_logger()->flush();
  return ::testing::internal::GetCapturedStderr();
}

TEST(Log, IsASentenceALine) {
  EXPECT_THAT(Lines(LogFormat::kText, [] { Log(spdlog::level::warn, {.job = "j1", .rank = 0}, "j1 is slow"); }),
              MatchesRegex("[0-9T:.+-]+ warning j1 is slow\n"));
}

TEST(Log, IsAnObjectALineWithWhatItIsAbout) {
  const json line = json::parse(Lines(LogFormat::kJson, [] {
    Log(spdlog::level::err,
        {.job = "j1", .attempt = 2, .rank = 0, .worker = "w1", .reason = "HANG", .request_id = "r-1"}, "it hangs");
  }));
  EXPECT_THAT(line.at("time").get<std::string>(),
              MatchesRegex("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z"));
  EXPECT_EQ(line.at("level"), "error");
  EXPECT_EQ(line.at("program"), "ham-test");
  EXPECT_EQ(line.at("message"), "it hangs");
  EXPECT_EQ(line.at("job"), "j1");
  EXPECT_EQ(line.at("attempt"), 2);
  EXPECT_EQ(line.at("rank"), 0);
  EXPECT_EQ(line.at("worker"), "w1");
  EXPECT_EQ(line.at("reason"), "HANG");
  EXPECT_EQ(line.at("request_id"), "r-1");
}

TEST(Log, LeavesOutWhatItIsNotAbout) {
  const std::string lines = Lines(LogFormat::kJson, [] {
    Log(spdlog::level::info, {.job = "j1"}, "first");
    spdlog::info("second");
  });
  const size_t end = lines.find('\n');
  const json first = json::parse(lines.substr(0, end)), second = json::parse(lines.substr(end));
  EXPECT_EQ(first.size(), 5u) << first;
  EXPECT_EQ(first.at("job"), "j1");
  EXPECT_EQ(second.size(), 4u) << second;
}

TEST(Log, StaysOneLineOfJsonWhateverIsSaid) {
  const std::string lines = Lines(
      LogFormat::kJson, [] { Log(spdlog::level::info, {.job = "a\"b\n"}, "line\nbreak {} \x01 \xff \"quoted\" \\"); });
  EXPECT_EQ(lines.find('\n'), lines.size() - 1);
  const json line = json::parse(lines);
  EXPECT_EQ(line.at("message"), "line\nbreak {} \x01 \xEF\xBF\xBD \"quoted\" \\");
  EXPECT_EQ(line.at("job"), "a\"b\n");
}

TEST(Log, WaitsForNobodyAndCountsWhatItDropped) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const int before = ::dup(STDERR_FILENO);
  ASSERT_EQ(::dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
  StartLog("ham-test", LogFormat::kJson);
  constexpr int kLines = 10'000;
  const std::string sentence(1000, 'x');
  for (int i = 0; i < kLines; ++i) spdlog::info(sentence);  // 10 MB, and nobody reads
  std::thread reader;
  std::string text;
  reader = std::thread([&] {
    char buffer[1 << 16];
    for (ssize_t n; (n = ::read(ends[0], buffer, sizeof(buffer))) > 0;) text.append(buffer, static_cast<size_t>(n));
  });
  spdlog::default_logger()->flush();
  spdlog::info("at last");
  spdlog::default_logger()->flush();
  ASSERT_EQ(::dup2(before, STDERR_FILENO), STDERR_FILENO);
  ::close(before);
  ::close(ends[1]);
  reader.join();
  ::close(ends[0]);
  int kept = 0, dropped = 0;
  std::string last;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    last = json::parse(line).at("message");
    kept += last == sentence ? 1 : 0;
    if (last.find("were dropped") != std::string::npos) dropped += std::stoi(last);
  }
  EXPECT_EQ(last, "at last");
  EXPECT_GT(kept, 1000);
  EXPECT_EQ(kept + dropped, kLines);
}

TEST(Log, GoesOnAfterAFullDiskAndWhereWritesDoNotWait) {
  const auto logged_to = [](int fd, const std::function<void()>& log) {
    const int before = ::dup(STDERR_FILENO);
    ASSERT_EQ(::dup2(fd, STDERR_FILENO), STDERR_FILENO);
    log();
    ASSERT_EQ(::dup2(before, STDERR_FILENO), STDERR_FILENO);
    ::close(before);
  };
  StartLog("ham-test", LogFormat::kText);
  const int full = ::open("/dev/full", O_WRONLY);
  logged_to(full, [] {
    spdlog::info("lost");
    spdlog::default_logger()->flush();
  });
  ::close(full);
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_NONBLOCK), 0);
  const std::string sentence(200'000, 'x');  // more than a pipe holds
  std::string text;
  logged_to(ends[1], [&] {
    spdlog::info(sentence);
    std::thread reader([&] {
      char buffer[1 << 16];
      while (text.find("xx\n") == std::string::npos) {
        const ssize_t n = ::read(ends[0], buffer, sizeof(buffer));
        if (n > 0) text.append(buffer, static_cast<size_t>(n));
      }
    });
    spdlog::default_logger()->flush();
    reader.join();
  });
  ::close(ends[0]);
  ::close(ends[1]);
  EXPECT_NE(text.find(sentence), std::string::npos);
  EXPECT_EQ(text.find("lost"), std::string::npos);
}

TEST(Log, TakesNoSignalThatTheProgramWaitsFor) {
  StartLog("ham-test", LogFormat::kText);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &set, nullptr), 0);
  ASSERT_EQ(::kill(::getpid(), SIGTERM), 0);  // ends this program if any thread takes it
  const timespec patience = {.tv_sec = 20, .tv_nsec = 0};
  EXPECT_EQ(::sigtimedwait(&set, nullptr, &patience), SIGTERM);
}

}  // namespace
}  // namespace ham

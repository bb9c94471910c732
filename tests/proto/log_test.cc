#include "proto/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <functional>
#include <nlohmann/json.hpp>

namespace ham {
namespace {

using nlohmann::json;
using ::testing::MatchesRegex;

// What this writes to standard error.
std::string Lines(LogFormat format, const std::function<void()>& log) {
  ::testing::internal::CaptureStderr();
  StartLog("ham-test", format);
  log();
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

}  // namespace
}  // namespace ham

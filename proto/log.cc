#include "proto/log.h"

#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "proto/log_writer.h"

namespace ham {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMostWaitingBytes = size_t{4} << 20;
constexpr absl::Duration kFlushTimeout = absl::Seconds(1);

thread_local const LogSubject* subject_at_hand = nullptr;  // sinks format on the thread that logs

void AddSubject(const LogSubject& subject, ordered_json* line) {
  const auto add = [line](const char* name, const std::string& value) {
    if (!value.empty()) (*line)[name] = value;
  };
  add("job", subject.job);
  if (subject.attempt > 0) (*line)["attempt"] = subject.attempt;
  if (subject.rank >= 0) (*line)["rank"] = subject.rank;
  add("worker", subject.worker);
  add("reason", subject.reason);
  add("request_id", subject.request_id);
}

class JsonLines : public spdlog::formatter {
 public:
  explicit JsonLines(std::string program) : program_(std::move(program)) {}

  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const spdlog::string_view_t level = spdlog::level::to_string_view(message.level);
    ordered_json line = {
        {"time", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::FromChrono(message.time), absl::UTCTimeZone())},
        {"level", std::string(level.data(), level.size())},
        {"program", program_},
        {"message", std::string(message.payload.data(), message.payload.size())}};
    if (subject_at_hand != nullptr) AddSubject(*subject_at_hand, &line);
    const std::string text = line.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
    out.append(text.data(), text.data() + text.size());
  }

  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<JsonLines>(program_); }

 private:
  const std::string program_;
};

// Formats on the thread that logs, and leaves the rest to a LogWriter.
class StandardError : public spdlog::sinks::base_sink<std::mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    std::string text;
    if (dropped_ > 0) {
      const std::string sentence =
          absl::StrCat(dropped_, " lines before this one were dropped: nobody read them in time");
      const LogSubject* const subject = std::exchange(subject_at_hand, nullptr);
      text = Format({message.logger_name, spdlog::level::warn, sentence});
      subject_at_hand = subject;
    }
    text += Format(message);
    dropped_ = writer_.Write(text) ? 0 : dropped_ + 1;
  }
  void flush_() override { writer_.Flush(kFlushTimeout); }

 private:
  std::string Format(const spdlog::details::log_msg& message) {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    return {line.data(), line.size()};
  }

  LogWriter writer_{STDERR_FILENO, kMostWaitingBytes};
  int64_t dropped_ = 0;  // lines since the last one that was taken
};

}  // namespace

void StartLog(const std::string& program, LogFormat format) {
  auto logger = std::make_shared<spdlog::logger>(program, std::make_shared<StandardError>());
  if (format == LogFormat::kJson) {
    logger->set_formatter(std::make_unique<JsonLines>(program));
  } else {
    logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  }
  spdlog::set_default_logger(std::move(logger));
}

void Log(spdlog::level::level_enum level, const LogSubject& subject, const std::string& sentence) {
  const LogSubject* const before = std::exchange(subject_at_hand, &subject);
  spdlog::default_logger_raw()->log(level, sentence);
  subject_at_hand = before;
}

}  // namespace ham

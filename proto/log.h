// What a program says of itself on standard error: a line a sentence, as text or as one JSON object.
//
//   2026-01-31T12:00:00.000+00:00 info job j1 ended
//   {"time":"2026-01-31T12:00:00.000Z","level":"info","program":"ham-worker","message":"...","job":"...","rank":0}
//
// Any spdlog call becomes such a line; Log() adds what it is about. Nobody who logs waits for whoever reads: lines are
// dropped, and counted, once 4 MiB of them wait.
#pragma once

#include <spdlog/common.h>

#include <string>

namespace ham {

enum class LogFormat { kText, kJson };

// Members of the JSON object by these names, without those that have their defaults. As text the sentence has to name
// them. `request_id` is that of CreateJobRequest: it leads from a client to its job.
struct LogSubject {
  std::string job = {};
  int attempt = 0;
  int rank = -1;
  std::string worker = {};
  std::string reason = {};
  std::string request_id = {};
};

// Replaces spdlog's default logger. Before any thread logs.
void StartLog(const std::string& program, LogFormat format);

void Log(spdlog::level::level_enum level, const LogSubject& subject, const std::string& sentence);

}  // namespace ham

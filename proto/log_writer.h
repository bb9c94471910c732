// Writes text to a file descriptor on a thread of its own, so that nobody waits for whoever reads it.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <thread>

#include "absl/time/time.h"

namespace ham {

class LogWriter {
 public:
  // The descriptor stays the caller's. At most `most_bytes` wait to be written.
  LogWriter(int fd, size_t most_bytes);
  // Writes what waits, but gives up after a second.
  ~LogWriter();
  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;

  // False if so much waits that this does not fit: it is dropped then. Any thread; does not block.
  bool Write(const std::string& text);
  // Until all is written, or the timeout is over.
  void Flush(absl::Duration timeout);

 private:
  struct State;

  const std::shared_ptr<State> state_;  // shared with a thread that may outlive this
  std::thread thread_;
};

}  // namespace ham

// Ctrl-C as a call.
#pragma once

#include <functional>
#include <thread>

namespace ham::client {

// While it lives, the first SIGINT or SIGTERM calls `interrupted` on a thread of its own; the second ends the program
// as usual. One at a time.
class Interrupt {
 public:
  explicit Interrupt(std::function<void()> interrupted);
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

 private:
  int event_ = -1;
  std::thread thread_;
};

}  // namespace ham::client

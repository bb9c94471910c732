#include "worker/agent/rank_exit.h"

#include <sys/wait.h>

#include <csignal>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace ham::agent {
namespace {

constexpr size_t kMessageBytes = 4096;

ham::v1::FailureClass ClassOf(const std::string& name) {
  if (name == "USER") return ham::v1::USER;
  if (name == "HANG") return ham::v1::HANG;
  return name == "INFRASTRUCTURE" ? ham::v1::INFRASTRUCTURE : ham::v1::TRAINER_CRASH;
}

void Fail(ham::v1::RankExit* exit, ham::v1::FailureClass failure_class, std::string message) {
  if (message.size() > kMessageBytes) {
    size_t end = kMessageBytes;
    while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xC0) == 0x80) --end;
    message.resize(end);
  }
  exit->set_failure_class(failure_class);
  exit->set_message(std::move(message));
}

}  // namespace

ham::v1::RankExit ClassifyExit(const ExitFacts& facts) {
  ham::v1::RankExit exit;
  exit.set_exit_code(-1);
  if (facts.wait_status) {
    if (WIFEXITED(*facts.wait_status)) exit.set_exit_code(WEXITSTATUS(*facts.wait_status));
    if (WIFSIGNALED(*facts.wait_status)) exit.set_signal(WTERMSIG(*facts.wait_status));
  }
  if (!facts.broken.ok()) {
    Fail(&exit, ham::v1::INFRASTRUCTURE, std::string(facts.broken.message()));
  } else if (!facts.failed_class.empty()) {
    Fail(&exit, ClassOf(facts.failed_class), facts.failed_message);
    if (facts.lost_rank) exit.set_lost_rank(*facts.lost_rank);
  } else if (facts.done && (exit.signal() == SIGKILL || exit.signal() == SIGTERM)) {
    exit.set_success(true);
  } else if (exit.signal() == SIGTERM) {
    Fail(&exit, ham::v1::PREEMPTED, "told to stop by SIGTERM");
  } else if (exit.signal() != 0) {
    Fail(&exit, ham::v1::TRAINER_CRASH,
         absl::StrCat("ended by signal ", exit.signal(), " (", strsignal(exit.signal()), ")"));
  } else if (!facts.wait_status) {
    Fail(&exit, ham::v1::INFRASTRUCTURE, "no trainer was started");
  } else if (exit.exit_code() != 0) {
    Fail(&exit, ham::v1::TRAINER_CRASH,
         absl::StrCat("ended with exit status ", exit.exit_code(), " and gave no reason"));
  } else if (!facts.done) {
    Fail(&exit, ham::v1::TRAINER_CRASH, "ended with exit status 0 before its work was done");
  } else {
    exit.set_success(true);
  }
  return exit;
}

}  // namespace ham::agent

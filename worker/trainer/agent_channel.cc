#include "worker/trainer/agent_channel.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/strict_json.h"
#include "worker/ipc/frame.h"
#include "worker/trainer/stopwatch.h"

namespace ham::trainer {
namespace {

// The agent bounds a store_get by itself; this much longer and it is the agent that hangs.
constexpr absl::Duration kReplyGrace = absl::Seconds(5);
constexpr absl::Duration kLeastTimeout = absl::Milliseconds(1);  // the agent refuses one of zero
constexpr absl::Duration kSetTimeout = absl::Seconds(30);

absl::Status CheckField(const nlohmann::json& message, const char* key, bool good) {
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("frame \"", message.at("type").get<std::string>(),
                                                 "\" from the agent: field \"", key,
                                                 "\" is missing or of a wrong type"));
}

bool IsString(const nlohmann::json& message, const char* key) {
  return message.contains(key) && message.at(key).is_string();
}

bool IsBoolean(const nlohmann::json& message, const char* key) {
  return message.contains(key) && message.at(key).is_boolean();
}

}  // namespace

class AgentChannel::Store final : public KeyValueStore {
 public:
  explicit Store(AgentChannel& channel) : channel_(channel) {}
  absl::Status Set(const std::string& key, const std::string& value) override {
    return channel_.CallStore({{"type", "store_set"}, {"key", key}, {"value", Base64Encode(value)}}, kSetTimeout)
        .status();
  }
  absl::StatusOr<std::string> Get(const std::string& key, absl::Duration timeout) override {
    if (timeout < kLeastTimeout) {
      return absl::DeadlineExceededError(absl::StrCat("rendezvous key \"", key, "\": no time is left to ask for it"));
    }
    const double seconds = absl::ToDoubleSeconds(std::min(timeout, absl::Hours(24)));
    return channel_.CallStore({{"type", "store_get"}, {"key", key}, {"timeout_seconds", seconds}}, timeout);
  }

 private:
  AgentChannel& channel_;
};

AgentChannel::AgentChannel(int fd, Callbacks callbacks)
    : fd_(fd), callbacks_(std::move(callbacks)), store_(std::make_unique<Store>(*this)) {
  reader_ = std::thread([this] { ReadFrames(); });
}

AgentChannel::~AgentChannel() {
  {
    absl::MutexLock lock(&mutex_);
    closing_ = true;
  }
  ::shutdown(fd_, SHUT_RDWR);  // wakes the reader
  reader_.join();
  ::close(fd_);
}

absl::Status AgentChannel::Send(const nlohmann::json& message) {
  absl::MutexLock lock(&write_mutex_);
  return ipc::WriteFrame(fd_, message);
}

absl::StatusOr<nlohmann::json> AgentChannel::WaitForStart(absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return started_ || !end_.ok(); };
  if (!mutex_.AwaitWithTimeout(absl::Condition(&ready), timeout)) {
    return absl::DeadlineExceededError(
        absl::StrCat("the agent sent no start frame within ", absl::FormatDuration(timeout)));
  }
  if (!started_) return end_;
  return start_;
}

absl::StatusOr<std::string> AgentChannel::CallStore(nlohmann::json request, absl::Duration timeout) {
  int64_t id = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (!end_.ok()) return end_;
    id = next_id_++;
    replies_[id] = nullptr;
  }
  request["id"] = id;
  const Stopwatch waited;
  const absl::Status sent = Send(request);
  absl::MutexLock lock(&mutex_);
  const auto ready = [this, id]()
                         ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !replies_.at(id).is_null() || !end_.ok(); };
  if (sent.ok()) mutex_.AwaitWithTimeout(absl::Condition(&ready), timeout + kReplyGrace);
  const nlohmann::json reply = std::move(replies_.at(id));
  replies_.erase(id);
  if (!sent.ok()) return sent;
  const std::string key = request.at("key").get<std::string>();
  if (reply.is_null() && !end_.ok()) return end_;
  if (!reply.is_null() && reply.at("ok").get<bool>()) {
    absl::StatusOr<std::string> value = Base64Decode(reply.at("value").get<std::string>());
    if (value.ok()) return value;
    return absl::FailedPreconditionError(
        absl::StrCat("rendezvous key \"", key, "\": the agent's answer is not base64"));
  }
  const std::string why = reply.is_null() ? "the agent did not answer" : reply.at("error").get<std::string>();
  const std::string text = absl::StrCat("rendezvous key \"", key, "\": ", why);
  return reply.is_null() || absl::Seconds(waited.Elapsed()) >= timeout ? absl::DeadlineExceededError(text)
                                                                       : absl::UnavailableError(text);
}

void AgentChannel::ReadFrames() {
  absl::Status end;
  while (end.ok()) {
    const absl::StatusOr<nlohmann::json> message = ipc::ReadFrame(fd_);
    end = message.ok() ? Dispatch(*message) : message.status();
  }
  if (absl::IsOutOfRange(end)) end = absl::UnavailableError("the agent closed its end");
  if (absl::IsInvalidArgument(end)) end = absl::FailedPreconditionError(end.message());  // no fault of the user's
  bool expected = false;
  {
    absl::MutexLock lock(&mutex_);
    end_ = end;
    expected = closing_;
  }
  if (!expected && callbacks_.on_end) callbacks_.on_end(end);
}

absl::Status AgentChannel::Dispatch(const nlohmann::json& message) {
  const std::string type = message.at("type").get<std::string>();
  if (type == "start") {
    absl::MutexLock lock(&mutex_);
    if (started_) return absl::InvalidArgumentError("the agent sent a second start frame");
    start_ = message;
    started_ = true;
    return absl::OkStatus();
  }
  if (type == "store_reply") {
    absl::Status status = CheckField(message, "id", message.contains("id") && message.at("id").is_number_integer());
    if (status.ok()) status = CheckField(message, "ok", IsBoolean(message, "ok"));
    if (!status.ok()) return status;
    const char* text = message.at("ok").get<bool>() ? "value" : "error";
    if (status = CheckField(message, text, IsString(message, text)); !status.ok()) return status;
    absl::MutexLock lock(&mutex_);
    const auto reply = replies_.find(message.at("id").get<int64_t>());
    if (reply != replies_.end()) reply->second = message;  // else its caller gave up
    return absl::OkStatus();
  }
  if (type == "work" && callbacks_.on_work) return callbacks_.on_work(message);
  if (type == "checkpoint_done") {
    absl::Status status = CheckField(message, "manifest", IsString(message, "manifest"));
    if (status.ok()) status = CheckField(message, "ok", IsBoolean(message, "ok"));
    if (!status.ok()) return status;
    const bool good = message.at("ok").get<bool>();
    if (!good && !IsString(message, "error")) return CheckField(message, "error", false);
    if (callbacks_.on_checkpoint_done) {
      callbacks_.on_checkpoint_done(
          message.at("manifest").get<std::string>(),
          good ? absl::OkStatus() : absl::UnavailableError(message.at("error").get<std::string>()));
    }
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("the agent sent a frame of the unknown type \"", type, "\""));
}

}  // namespace ham::trainer

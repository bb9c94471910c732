// Frames between agent and trainer, as a stream and as the text of one.
#include "worker/ipc/frame.h"

#include <sys/socket.h>
#include <unistd.h>

#include "proto/strict_json.h"
#include "tests/fuzz/fuzz.h"

namespace ham::fuzz {
namespace {

std::string Framed(const std::string& text) {
  std::string frame;
  for (size_t i = 0; i < 4; ++i) frame += static_cast<char>(text.size() >> (8 * i));
  return frame + text;
}

class Pipe {
 public:
  Pipe() { Check(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds_) == 0, "a socket pair can be made"); }
  ~Pipe() {
    Close();
    ::close(fds_[0]);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  int reader() const { return fds_[0]; }
  int writer() const { return fds_[1]; }
  void Close() {
    if (fds_[1] >= 0) ::close(fds_[1]);
    fds_[1] = -1;
  }

 private:
  int fds_[2];
};

void ReadAll(const std::string& stream) {
  Pipe pipe;
  Check(::write(pipe.writer(), stream.data(), stream.size()) == static_cast<ssize_t>(stream.size()), "input is short");
  pipe.Close();
  while (true) {
    const absl::StatusOr<nlohmann::json> frame = ipc::ReadFrame(pipe.reader());
    if (!frame.ok()) {
      const absl::StatusCode code = frame.status().code();
      Check(code == absl::StatusCode::kInvalidArgument || code == absl::StatusCode::kUnavailable ||
                code == absl::StatusCode::kOutOfRange,
            "errors are those of the contract");
      return;
    }
    Check(frame->is_object() && frame->at("type").is_string(), "a frame has a type");
    Pipe second;
    Check(ipc::WriteFrame(second.writer(), *frame).ok(), "what was read can be written");
    const absl::StatusOr<nlohmann::json> again = ipc::ReadFrame(second.reader());
    Check(again.ok() && *again == *frame, "what is written is read again");
  }
}

}  // namespace

std::vector<std::string> Seeds() {
  const std::string hello = R"({"type": "hello", "build_id": "0123456789ab"})";
  const std::string set = R"({"type": "store_set", "id": 7, "key": "k", "value": "AAECAw=="})";
  return {hello,
          set,
          Framed(hello) + Framed(set),
          Framed(hello).substr(0, 20),
          R"({"type": "x", "a": [1, -2, 3.5e-7, true, "\u00e9", {"b": {}}]})",
          R"({"type": "x", "type": "y"})"};
}

void TryInput(const std::string& input) {
  if (input.size() > 64 << 10) return;  // what a socket takes without a reader
  ReadAll(input);
  ReadAll(Framed(input));
  const absl::StatusOr<std::string> bytes = Base64Decode(input);
  if (bytes.ok()) Check(Base64Encode(*bytes) == input, "there is one way to write bytes");
}

}  // namespace ham::fuzz

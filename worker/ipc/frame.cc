#include "worker/ipc/frame.h"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <set>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace ham::ipc {
namespace {

constexpr size_t kHeaderBytes = 4;
constexpr size_t kMaxDepth = 64;

// Refuses what nlohmann's parser lets pass, while it builds the value; `error` keeps the first reason.
class StrictReader {
 public:
  bool operator()(int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    if (!error_.empty()) return false;
    switch (event) {
      case Event::object_start:
        keys_.emplace_back();
        [[fallthrough]];
      case Event::array_start:
        if (static_cast<size_t>(depth) >= kMaxDepth) error_ = absl::StrCat("nesting deeper than ", kMaxDepth);
        break;
      case Event::object_end:
        keys_.pop_back();
        break;
      case Event::array_end:
        break;
      case Event::key:
        if (!keys_.back().insert(parsed.get<std::string>()).second) {
          error_ = absl::StrCat("key \"", parsed.get<std::string>(), "\" stands twice in one object");
        }
        break;
      case Event::value:
        if (parsed.is_null()) error_ = "null is not allowed";
        break;
    }
    return error_.empty();
  }
  const std::string& error() const { return error_; }

 private:
  std::vector<std::set<std::string>> keys_;  // of the objects being read, outermost first
  std::string error_;
};

// Reads `size` bytes or up to the end of the stream; returns how many, or an error.
absl::StatusOr<size_t> ReadFully(int fd, char* data, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t n = ::read(fd, data + done, size - done);
    if (n > 0) {
      done += static_cast<size_t>(n);
    } else if (n == 0) {
      break;
    } else if (errno != EINTR) {
      return absl::UnavailableError(absl::StrCat("reading a frame failed: ", std::strerror(errno)));
    }
  }
  return done;
}

}  // namespace

absl::StatusOr<nlohmann::json> ParseStrictJson(const std::string& text) {
  StrictReader reader;
  try {
    nlohmann::json value =
        nlohmann::json::parse(text, [&reader](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
          return reader(depth, event, parsed);
        });
    if (!reader.error().empty()) return absl::InvalidArgumentError(absl::StrCat("JSON: ", reader.error()));
    return value;
  } catch (const nlohmann::json::exception& e) {
    if (!reader.error().empty()) return absl::InvalidArgumentError(absl::StrCat("JSON: ", reader.error()));
    return absl::InvalidArgumentError(absl::StrCat("not JSON: ", e.what()));
  }
}

absl::Status WriteFrame(int fd, const nlohmann::json& message) {
  std::string frame(kHeaderBytes, '\0');
  try {
    frame += message.dump();
  } catch (const nlohmann::json::exception& e) {  // text that is not UTF-8
    return absl::InternalError(absl::StrCat("message cannot be written as JSON: ", e.what()));
  }
  const size_t size = frame.size() - kHeaderBytes;
  if (size > kMaxFrameBytes) {
    return absl::InternalError(
        absl::StrCat("a frame of ", size, " bytes is too long: at most ", kMaxFrameBytes, " are allowed"));
  }
  for (size_t i = 0; i < kHeaderBytes; ++i) frame[i] = static_cast<char>(size >> (8 * i));
  for (size_t done = 0; done < frame.size();) {
    // A peer that is gone must be an error, not SIGPIPE.
    const ssize_t n = ::send(fd, frame.data() + done, frame.size() - done, MSG_NOSIGNAL);
    if (n >= 0) {
      done += static_cast<size_t>(n);
    } else if (errno != EINTR) {
      return absl::UnavailableError(absl::StrCat("writing a frame failed: ", std::strerror(errno)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<nlohmann::json> ReadFrame(int fd) {
  std::array<char, kHeaderBytes> header;
  absl::StatusOr<size_t> got = ReadFully(fd, header.data(), header.size());
  if (!got.ok()) return got.status();
  if (*got == 0) return absl::OutOfRangeError("the other side closed the stream");
  if (*got < header.size()) return absl::UnavailableError("the stream was cut within the length of a frame");
  uint32_t size = 0;
  for (size_t i = 0; i < kHeaderBytes; ++i) size |= uint32_t{static_cast<unsigned char>(header[i])} << (8 * i);
  if (size > kMaxFrameBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a frame of ", size, " bytes is announced: at most ", kMaxFrameBytes, " are allowed"));
  }
  std::string text(size, '\0');
  got = ReadFully(fd, text.data(), text.size());
  if (!got.ok()) return got.status();
  if (*got < size) {
    return absl::UnavailableError(absl::StrCat("the stream was cut within a frame: ", *got, " of ", size, " bytes"));
  }
  absl::StatusOr<nlohmann::json> message = ParseStrictJson(text);
  if (!message.ok()) return message;
  if (!message->is_object() || !message->contains("type") || !message->at("type").is_string()) {
    return absl::InvalidArgumentError("a frame must be an object with a string \"type\"");
  }
  return message;
}

std::string Base64Encode(const std::string& bytes) { return absl::Base64Escape(bytes); }

absl::StatusOr<std::string> Base64Decode(const std::string& text) {
  std::string bytes;
  // Abseil also takes unpadded and spaced text; there is one way to write a value.
  if (!absl::Base64Unescape(text, &bytes) || absl::Base64Escape(bytes) != text) {
    return absl::InvalidArgumentError("not base64 text");
  }
  return bytes;
}

}  // namespace ham::ipc

#include "worker/ipc/frame.h"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "proto/strict_json.h"

namespace ham::ipc {
namespace {

constexpr size_t kHeaderBytes = 4;

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

}  // namespace ham::ipc

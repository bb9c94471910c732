#include "worker/trainer/evaluation/evaluation_journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>
#include "absl/strings/str_format.h"
#include "proto/atomic_file.h"
#include "proto/sha256.h"

namespace ham::trainer {
namespace {

using nlohmann::json;

constexpr size_t kDigestDigits = 16;

std::string LineOf(const std::string& text) { return text + " " + Sha256Hex(text).substr(0, kDigestDigits) + "\n"; }

std::string InputsText(const std::string& inputs_digest) { return json{{"inputs", inputs_digest}}.dump(); }

// The text of a line, without what ends it; empty where it is not as LineOf() made it.
std::string_view TextOf(std::string_view line) {
  if (line.size() < kDigestDigits + 1) return {};
  const std::string_view text = line.substr(0, line.size() - kDigestDigits - 1);
  return line.substr(text.size()) == " " + Sha256Hex(std::string(text)).substr(0, kDigestDigits) ? text
                                                                                                 : std::string_view();
}

// Margins travel as their bits: they may be infinite, and must come back as they were.
json BlockJson(const FinishedBlock& finished) {
  json broken = json::array(), predictions = json::array(), margins = json::array();
  for (const RowOutcome& outcome : finished.outcomes) {
    broken.push_back(outcome.broken);
    predictions.push_back(outcome.prediction);
    margins.push_back(std::bit_cast<uint32_t>(outcome.margin));
  }
  return {{"stage", finished.block.stage},
          {"rows", finished.block.rows},
          {"broken", broken},
          {"predictions", predictions},
          {"margin_bits", margins},
          {"seconds", finished.seconds},
          {"forward_passes", finished.forward_passes},
          {"gradient_passes", finished.gradient_passes}};
}

// Throws as the JSON library does.
FinishedBlock BlockOf(const json& line) {
  FinishedBlock out;
  out.block = {line.at("stage"), line.at("rows")};
  out.seconds = line.at("seconds");
  out.forward_passes = line.at("forward_passes");
  out.gradient_passes = line.at("gradient_passes");
  for (size_t i = 0; i < out.block.rows.size(); ++i) {
    out.outcomes.push_back({line.at("broken").at(i), line.at("predictions").at(i),
                            std::bit_cast<float>(line.at("margin_bits").at(i).get<uint32_t>())});
  }
  return out;
}

absl::StatusOr<std::string> ReadAll(int fd, const std::string& path) {
  std::string out;
  char buffer[1 << 16];
  for (;;) {
    const ssize_t got = read(fd, buffer, sizeof buffer);
    if (got == 0) return out;
    if (got > 0) out.append(buffer, got);
    if (got < 0 && errno != EINTR) return FileError("read", path, errno);
  }
}

absl::Status Damaged(const std::string& path, int line) {
  return absl::DataLossError(
      absl::StrFormat("%s: line %d is not as it was written; remove the file to start anew", path, line));
}

// Reads the lines of `text`; *good becomes the bytes of those that are whole.
absl::Status ReadLines(const std::string& path, const std::string& text, const std::string& inputs_digest,
                       const std::function<absl::Status(const FinishedBlock&)>& visit, size_t* good) {
  *good = 0;
  for (int number = 1; *good < text.size(); ++number) {
    const size_t end = text.find('\n', *good);
    if (end == std::string::npos) {  // half written; but a file of something else is not ours to cut
      const bool ours = number > 1 || LineOf(InputsText(inputs_digest)).starts_with(text);
      return ours ? absl::OkStatus() : Damaged(path, number);
    }
    const std::string_view line = TextOf(std::string_view(text).substr(*good, end - *good));
    if (line.empty()) return number > 1 && end + 1 == text.size() ? absl::OkStatus() : Damaged(path, number);
    try {
      const json content = json::parse(line);
      if (number == 1) {
        if (content.at("inputs") != inputs_digest) {
          return absl::FailedPreconditionError(absl::StrFormat(
              "%s is of an evaluation of another model, data, attack list or program; name another file or remove it",
              path));
        }
      } else if (absl::Status status = visit(BlockOf(content)); !status.ok()) {
        return absl::DataLossError(absl::StrFormat("%s: line %d: %s", path, number, status.message()));
      }
    } catch (const json::exception&) {
      return Damaged(path, number);
    }
    *good = end + 1;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<EvaluationJournal> EvaluationJournal::Open(
    const std::string& path, const std::string& inputs_digest,
    const std::function<absl::Status(const FinishedBlock&)>& visit) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return FileError("open", path, errno);
  EvaluationJournal journal(path, fd);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("another evaluation has %s open; wait for it or name another", path));
  }
  const auto text = ReadAll(fd, path);
  if (!text.ok()) return text.status();
  size_t good = 0;
  if (absl::Status status = ReadLines(path, *text, inputs_digest, visit, &good); !status.ok()) return status;
  if (good < text->size() && ftruncate(fd, static_cast<off_t>(good)) != 0) return FileError("cut", path, errno);
  if (good == 0) {
    absl::Status status = journal.AppendLine(InputsText(inputs_digest));
    if (status.ok())
      status = SyncDirectory(path.find('/') == std::string::npos ? "." : path.substr(0, path.rfind('/') + 1));
    if (!status.ok()) return status;
  }
  return journal;
}

EvaluationJournal::EvaluationJournal(EvaluationJournal&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

EvaluationJournal::~EvaluationJournal() {
  if (fd_ >= 0) close(fd_);
}

absl::Status EvaluationJournal::Append(const FinishedBlock& finished) { return AppendLine(BlockJson(finished).dump()); }

absl::Status EvaluationJournal::AppendLine(const std::string& text) {
  const std::string line = LineOf(text);
  for (size_t written = 0; written < line.size();) {
    const ssize_t count = write(fd_, line.data() + written, line.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return FileError("write", path_, errno);
    written += count;
  }
  return fdatasync(fd_) == 0 ? absl::OkStatus() : FileError("sync", path_, errno);
}

}  // namespace ham::trainer

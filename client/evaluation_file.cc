#include "client/evaluation_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace ham::client {

absl::StatusOr<RecordFile> ReadEvaluation(const std::string& path, const std::optional<std::string>& signed_by) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot open ", path, ": ", std::strerror(errno)));
  std::string text, piece(1 << 20, '\0');
  while (text.size() <= kMostRecordFileBytes && file) {  // /dev/zero ends too
    file.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    text.append(piece, 0, static_cast<size_t>(file.gcount()));
  }
  absl::StatusOr<RecordFile> parsed = ParseRecordFile(text);
  absl::Status status = parsed.status();
  if (status.ok() && signed_by.has_value()) status = RequireSigner(*parsed, *signed_by);
  if (status.ok()) return parsed;
  return absl::Status(status.code(), absl::StrCat(path, ": ", std::string(status.message())));
}

}  // namespace ham::client

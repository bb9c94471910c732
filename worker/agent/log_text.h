// What a trainer prints, as pieces fit for a log record.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace ham::agent {

// Bytes of text in one record.
inline constexpr size_t kLogRecordBytes = 256 << 10;

// Cuts a byte stream into valid UTF-8 pieces of whole lines; a longer line is split between characters. What is
// no UTF-8 becomes U+FFFD: one for a character that breaks off, one for each other byte. Not thread-safe.
class LogText {
 public:
  // Each piece has at most `limit` >= 16 bytes.
  explicit LogText(size_t limit = kLogRecordBytes) : limit_(limit) {}

  // Pieces that became complete.
  std::vector<std::string> Add(const std::string& bytes);
  // The rest, at the end of the stream; empty if there is none.
  std::vector<std::string> Finish();

 private:
  std::vector<std::string> Cut(bool all);

  const size_t limit_;
  std::string raw_;   // tail that may be a character cut in two
  std::string text_;  // valid UTF-8
};

}  // namespace ham::agent

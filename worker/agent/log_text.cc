#include "worker/agent/log_text.h"

#include <algorithm>
#include <utility>

namespace ham::agent {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";

bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// Bytes of the character that `first` begins; 0 if none does.
size_t CharacterBytes(unsigned char first) {
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return 2;
  if (first >= 0xE0 && first <= 0xEF) return 3;
  return first >= 0xF0 && first <= 0xF4 ? 4 : 0;
}

// Too long an encoding, a surrogate, or beyond U+10FFFF: visible in the second byte.
bool IsSecondByte(unsigned char first, char second) {
  const unsigned char byte = static_cast<unsigned char>(second);
  if (!IsContinuation(second)) return false;
  if (first == 0xE0) return byte >= 0xA0;
  if (first == 0xED) return byte < 0xA0;
  if (first == 0xF0) return byte >= 0x90;
  return first != 0xF4 || byte < 0x90;
}

// Valid bytes at `at`: a whole character (*whole), or the longest beginning of one.
size_t Match(const std::string& bytes, size_t at, bool* whole) {
  const unsigned char first = static_cast<unsigned char>(bytes[at]);
  const size_t size = CharacterBytes(first);
  *whole = size == 1;
  if (size <= 1) return size;
  size_t n = 1;
  while (n < size && at + n < bytes.size() &&
         (n == 1 ? IsSecondByte(first, bytes[at + n]) : IsContinuation(bytes[at + n]))) {
    ++n;
  }
  *whole = n == size;
  return n;
}

}  // namespace

std::vector<std::string> LogText::Add(const std::string& bytes) {
  raw_ += bytes;
  size_t at = 0;
  while (at < raw_.size()) {
    bool whole = false;
    const size_t n = Match(raw_, at, &whole);
    if (whole) {
      text_.append(raw_, at, n);
      at += n;
    } else if (n > 0 && at + n == raw_.size()) {
      break;  // the rest may come
    } else {
      text_ += kReplacement;
      at += std::max<size_t>(n, 1);
    }
  }
  raw_.erase(0, at);
  return Cut(false);
}

std::vector<std::string> LogText::Finish() {
  if (!raw_.empty()) text_ += kReplacement;
  raw_.clear();
  return Cut(true);
}

std::vector<std::string> LogText::Cut(bool all) {
  std::vector<std::string> pieces;
  size_t begin = 0;
  while (begin < text_.size()) {
    const size_t left = text_.size() - begin;
    size_t end = text_.size();
    if (left >= limit_) {
      const size_t newline = text_.rfind('\n', begin + limit_ - 1);
      end = begin + limit_;
      if (newline != std::string::npos && newline >= begin) {
        end = newline + 1;
      } else {
        while (end < text_.size() && IsContinuation(text_[end])) --end;
      }
    } else if (!all) {
      const size_t newline = text_.rfind('\n');
      if (newline == std::string::npos || newline < begin) break;
      end = newline + 1;
    }
    pieces.push_back(text_.substr(begin, end - begin));
    begin = end;
  }
  text_.erase(0, begin);
  return pieces;
}

}  // namespace ham::agent

#include "server/utf8.h"

#include <cstdint>

namespace ham::server {
namespace {

// Bytes of the character at the front of `text`; 0 if it is none.
size_t CharacterSize(std::string_view text) {
  const auto byte = [&text](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  const size_t size = first >= 0xC2 && first <= 0xDF   ? 2
                      : first >= 0xE0 && first <= 0xEF ? 3
                      : first >= 0xF0 && first <= 0xF4 ? 4
                                                       : 0;
  if (size == 0 || text.size() < size) return 0;
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, beyond U+10FFFF.
  if ((first == 0xE0 && byte(1) < 0xA0) || (first == 0xED && byte(1) > 0x9F) || (first == 0xF0 && byte(1) < 0x90) ||
      (first == 0xF4 && byte(1) > 0x8F)) {
    return 0;
  }
  return size;
}

}  // namespace

std::vector<std::string> SplitUtf8(std::string_view text, size_t most) {
  static constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
  std::vector<std::string> pieces(1);
  while (!text.empty()) {
    const size_t size = CharacterSize(text);
    const std::string_view character = size == 0 ? kReplacement : text.substr(0, size);
    if (pieces.back().size() + character.size() > most) {
      const size_t line = pieces.back().rfind('\n');
      std::string rest;
      if (line != std::string::npos && line + 1 >= most / 2) {
        rest = pieces.back().substr(line + 1);
        pieces.back().resize(line + 1);
      }
      pieces.push_back(std::move(rest));
    }
    pieces.back() += character;
    text.remove_prefix(size == 0 ? 1 : size);
  }
  return pieces;
}

}  // namespace ham::server

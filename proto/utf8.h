// Text cut to a size without breaking a character: protobuf refuses strings that are not UTF-8.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ham {

// The longest beginning of `text`, which is UTF-8, that has at most `most` bytes and ends between characters.
inline std::string_view CutUtf8(std::string_view text, size_t most) {
  if (text.size() <= most) return text;
  while (most > 0 && (static_cast<unsigned char>(text[most]) & 0xC0) == 0x80) --most;
  return text.substr(0, most);
}

// The same for text that people read: what is missing shows as "...".
inline std::string Shortened(std::string_view text, size_t most) {
  if (text.size() <= most) return std::string(text);
  return std::string(CutUtf8(text, most)) + "...";
}

}  // namespace ham

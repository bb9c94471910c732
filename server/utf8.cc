#include "server/utf8.h"

#include "proto/utf8.h"

namespace ham::server {

std::vector<std::string> SplitUtf8(std::string_view text, size_t most) {
  static constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
  std::vector<std::string> pieces(1);
  while (!text.empty()) {
    const size_t size = Utf8CharacterSize(text);
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

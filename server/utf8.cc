#include "server/utf8.h"

#include "proto/utf8.h"

namespace ham::server {

std::vector<std::string> SplitUtf8(std::string_view text, size_t most) {
  std::vector<std::string> pieces;
  while (text.size() > most) {
    std::string_view piece = CutUtf8(text, most);
    const size_t line = piece.rfind('\n');
    if (line != std::string_view::npos && line + 1 >= most / 2) piece = piece.substr(0, line + 1);
    pieces.emplace_back(piece);
    text.remove_prefix(piece.size());
  }
  if (!text.empty() || pieces.empty()) pieces.emplace_back(text);
  return pieces;
}

}  // namespace ham::server

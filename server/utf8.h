// Text in pieces.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ham::server {

// `text`, which is UTF-8, in pieces of at most `most` bytes (>= 4), cut between characters, at the end of a line where
// one is near. Empty text gives one empty piece.
std::vector<std::string> SplitUtf8(std::string_view text, size_t most);

}  // namespace ham::server

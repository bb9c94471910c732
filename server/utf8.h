// Text as protobuf wants it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ham::server {

// `text` in pieces of at most `most` bytes (>= 4), cut between characters, at the end of a line where one is near;
// bytes that are not UTF-8 become U+FFFD. Empty text gives one empty piece.
std::vector<std::string> SplitUtf8(std::string_view text, size_t most);

}  // namespace ham::server

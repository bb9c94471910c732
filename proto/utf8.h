// Text as protobuf and gRPC want it: UTF-8.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ham {

// Bytes of the character at the front of `text`, which must not be empty; 0 if it is none.
size_t Utf8CharacterSize(std::string_view text);

bool IsUtf8(std::string_view text);

// The longest beginning of `text`, which is UTF-8, that has at most `most` bytes and ends between characters.
std::string_view CutUtf8(std::string_view text, size_t most);

// A value from outside as a message may quote it: the first `most` bytes, cut between characters, with "..." for what
// is left out; bytes that are not UTF-8 become '?'.
std::string Shown(std::string_view text, size_t most = 100);

}  // namespace ham

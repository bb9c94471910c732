// SHA-256 as lower-case hex. Any thread.
#pragma once

#include <string>
#include <string_view>

namespace ham::server {

std::string Sha256Hex(std::string_view data);
bool IsSha256Hex(std::string_view text);

}  // namespace ham::server

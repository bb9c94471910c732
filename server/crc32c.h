// CRC-32C (Castagnoli, RFC 3720 appendix B.4).
#pragma once

#include <cstdint>
#include <string_view>

namespace ham::server {

// Of the bytes that gave `crc`, followed by `data`. Any thread.
uint32_t Crc32c(std::string_view data, uint32_t crc = 0);

}  // namespace ham::server

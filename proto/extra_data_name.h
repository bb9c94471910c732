// What extra training data may be called; a path is made of it.
#pragma once

#include <string_view>

namespace ham {

inline constexpr size_t kMostExtraDataNameBytes = 40;

inline constexpr char kExtraDataNameRule[] = "1 to 40 letters, digits, '-', '_' and '.', not starting with '.'";

// Whether `name` is by that rule.
inline bool IsExtraDataName(std::string_view name) {
  if (name.empty() || name.size() > kMostExtraDataNameBytes || name.front() == '.') return false;
  for (const char c : name) {
    const bool ok =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
    if (!ok) return false;
  }
  return true;
}

}  // namespace ham

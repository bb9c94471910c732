// What standard output can show, by what the environment says.
#pragma once

#include <cstddef>
#include <string>

namespace ham::client {

struct Screen {
  bool terminal = false;  // it is one, of whatever kind
  bool drawable = false;  // lines can be drawn again
  bool color = false;
  bool utf8 = false;
  size_t columns = 80;
  size_t rows = 24;
};

// "" when it is not set.
std::string EnvironmentVariable(const char* name);

// Of standard output, now. NO_COLOR, TERM and the locale variables are heard.
Screen DetectScreen();

}  // namespace ham::client

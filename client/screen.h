// What standard output can show.
#pragma once

#include <cstddef>

namespace ham::client {

struct Screen {
  bool terminal = false;  // it is one, of whatever kind
  bool drawable = false;  // lines can be drawn again
  bool color = false;
  bool utf8 = false;
  size_t columns = 80;
  size_t rows = 24;
};

// Of standard output, now. NO_COLOR, TERM and the locale variables are heard.
Screen DetectScreen();

}  // namespace ham::client

#include "client/screen.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "absl/strings/ascii.h"

namespace ham::client {
namespace {

bool LocaleIsUtf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const std::string value = EnvironmentVariable(name);
    if (value.empty()) continue;
    const std::string lower = absl::AsciiStrToLower(value);
    return lower.find("utf-8") != std::string::npos || lower.find("utf8") != std::string::npos;
  }
  return false;
}

}  // namespace

std::string EnvironmentVariable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

Screen DetectScreen() {
  Screen screen;
  const std::string term = EnvironmentVariable("TERM");
  screen.terminal = ::isatty(STDOUT_FILENO) == 1;
  screen.drawable = screen.terminal && !term.empty() && term != "dumb";
  screen.color = screen.drawable && EnvironmentVariable("NO_COLOR").empty();
  screen.utf8 = LocaleIsUtf8();
  winsize size{};
  if (screen.terminal && ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0) {
    screen.columns = size.ws_col;
    screen.rows = size.ws_row;
  }
  return screen;
}

}  // namespace ham::client

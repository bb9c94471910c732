// hamctl as a program.
#pragma once

#include <sys/wait.h>

#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"

namespace ham::testing {

struct Done {
  int code;
  std::string output;  // and errors
};

// `arguments` as a shell reads them.
inline Done Hamctl(const std::string& arguments) {
  FILE* const pipe = ::popen(absl::StrCat(HAM_CTL, " ", arguments, " 2>&1").c_str(), "r");
  std::string output;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) output += static_cast<char>(c);
  const int status = ::pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, output};
}

}  // namespace ham::testing

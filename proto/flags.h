// Flags that several programs have.
#pragma once

#include <CLI/CLI.hpp>

#include "proto/log.h"

namespace ham {

// --log-format text|json.
void AddLogFormat(CLI::App* app, LogFormat* format);

// --config FILE: options by the names of their flags, a line each. What is given as a flag too is taken from there.
void AddConfigFile(CLI::App* app);

// Says what is wrong with the flags or the file on standard error, or what --help and --version ask for on standard
// output. The exit code: 2 or 0.
int SayParseError(const CLI::App& app, const CLI::ParseError& error);

}  // namespace ham

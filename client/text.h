// Words and tables for people. Pure; any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "google/protobuf/timestamp.pb.h"
#include "ham/v1/job.pb.h"

namespace ham::client {

// "57.3 %" of a fraction in [0, 1]; "-" for NaN.
std::string Percent(double fraction);
// "8s", "3m 20s", "2h 05m", "4d 3h"; negative counts as zero.
std::string ShortDuration(absl::Duration duration);
absl::Time FromTimestamp(const google::protobuf::Timestamp& time);
// Id of projects/PROJECT/jobs/ID or workers/ID; other text as it is.
std::string ShortName(const std::string& name);
// "4 x cuda"
std::string RanksOf(const ham::v1::ResourceSpec& resources);
// Quoted for a POSIX shell where it needs to be.
std::string ShellWord(const std::string& text);
// Control characters as '?', so that text from elsewhere cannot steer a terminal. Newlines and tabs stay.
std::string Printable(std::string_view text);
// Columns on a terminal: code points of UTF-8 text.
size_t Width(std::string_view text);
// The first `columns` of it.
std::string Clip(std::string_view text, size_t columns);
std::string PadRight(std::string text, size_t columns);
// Columns as wide as their widest cell, two spaces between, no space at the end of a line. Cells are made Printable and
// free of newlines.
std::string Table(const std::vector<std::vector<std::string>>& rows);

}  // namespace ham::client

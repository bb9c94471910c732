// Records as lines of text, for output that is not a terminal and for what scrolls by above a live view. Pure.
#pragma once

#include <string>
#include <vector>

#include "ham/v1/job_service.pb.h"

namespace ham::client {

// "10:04:05  STARTING: ...", "10:05:10  epoch 3: 2000 test images: clean 75.0 %" with a line for each suite below it.
// None for log text, and for train points other than an epoch's last.
std::vector<std::string> RecordLines(const ham::v1::JobRecord& record);

// One suite: "pgd-20: average 52.0 %, worst class Shirt 3.1 %".
std::string SuiteLine(const ham::v1::SuiteMetrics& suite);

// The last line of a job that was followed: its state, how long it took, and why it ended.
std::string EndLine(const ham::v1::Job& job);

}  // namespace ham::client

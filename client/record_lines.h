// Records as lines of text, for output that is not a terminal and for what scrolls by above a live view. Pure.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "ham/v1/job_service.pb.h"

namespace ham::client {

// "10:04:05  STARTING: ...", "10:05:10  epoch 3: 2000 test images: clean 75.0 %" with a line for each suite below it.
// None for log text, and for train points other than an epoch's last.
std::vector<std::string> RecordLines(const ham::v1::JobRecord& record);

// Leaves out most of an evaluation job's progress, which comes about once a second. One thread.
class ThinnedProgress {
 public:
  // For each record, in order: true unless it is progress at the stage and in the minute of the one shown last.
  bool Shows(const ham::v1::JobRecord& record);

 private:
  std::string stage_;
  absl::Time shown_ = absl::InfinitePast();
};

// How far an evaluation job is: "apgd-t  812 rows left  robust <= 61.3 %, worst class <= 35.0 % (shirt)  at most 4m 0s
// left, 2 ranks". Of metrics with `progress`.
std::string ProgressText(const ham::v1::EvaluationMetrics& evaluation);

// One suite: "pgd-20: average 52.0 %, worst class Shirt 3.1 %".
std::string SuiteLine(const ham::v1::SuiteMetrics& suite);

// The last line of a job that was followed: its state, how long it took, and why it ended.
std::string EndLine(const ham::v1::Job& job);

}  // namespace ham::client

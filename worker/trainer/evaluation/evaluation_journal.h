// The finished blocks of an evaluation in a file, so that one that was stopped, however hard, goes on where it was.
//
// A line a block: its JSON, a space, and the first 16 hex digits of the SHA-256 of that. The first line is of the
// inputs. One thread; one process at a time, by a lock of the file.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/evaluation/evaluation_plan.h"

namespace ham::trainer {

class EvaluationJournal {
 public:
  // Opens or makes `path` and calls visit(block) for each block in it; its errors end that. A last line that was half
  // written is cut off. FailedPrecondition where it is of other inputs, or another process has it open; DataLoss for
  // another line that is not as it was written; else Unavailable.
  static absl::StatusOr<EvaluationJournal> Open(const std::string& path, const std::string& inputs_digest,
                                                const std::function<absl::Status(const FinishedBlock&)>& visit);
  EvaluationJournal(EvaluationJournal&& other) noexcept;
  EvaluationJournal& operator=(EvaluationJournal&&) = delete;
  ~EvaluationJournal();

  // It is on the disk when this returns.
  absl::Status Append(const FinishedBlock& finished);

 private:
  EvaluationJournal(const std::string& path, int fd) : path_(path), fd_(fd) {}
  absl::Status AppendLine(const std::string& text);

  std::string path_;
  int fd_;
};

}  // namespace ham::trainer

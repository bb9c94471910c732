// Evaluations on this machine alone: `ham-trainer evaluate` makes a record, `ham-trainer verify` holds one against what
// the attacks find again. One a process.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "worker/trainer/evaluation/prepared_evaluation.h"

namespace ham::trainer {

struct EvaluationJob {
  EvaluationSetup setup;
  // The images: the first `rows` of the data set's test images, 0 = all; of these every shard_count-th from shard_index
  // on.
  int64_t rows = 0;
  int64_t shard_index = 0;
  int64_t shard_count = 1;
  // The attacks: see attack_text.h.
  std::string norm = "linf";
  std::string epsilon = "8/255";
  std::string attacks = "standard";
  uint64_t seed = 0;
  std::string device = "cpu";
  int64_t block_rows = 0;  // 0: what suits the device
  std::string record;      // file to write, or to verify
  bool json = false;       // progress as a JSON object a line
};

// Prints progress, what each attack found, and warnings; writes the record at the end, and only then. What is done
// meanwhile lies beside it in a journal (".journal"), from which a second call goes on. InvalidArgument and NotFound
// are the user's, DataLoss the files'.
absl::Status RunEvaluation(const EvaluationJob& job);

// Attacks the shard of the rows of job.record again, with job's weights, data_root, data_cache, device, threads and
// block_rows; all else is the record's. DataLoss where an outcome differs: says which, and whether record and this run
// are of one device and program, as only then all must be equal. FailedPrecondition for other weights or data than the
// record's.
absl::Status VerifyRecord(const EvaluationJob& job);

}  // namespace ham::trainer

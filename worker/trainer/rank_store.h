// What ranks leave for each other in a KeyValueStore while they come up.
#pragma once

#include <string>

#include "absl/strings/str_cat.h"
#include "worker/trainer/key_value_store.h"
#include "worker/trainer/stopwatch.h"

namespace ham::trainer {

class RankStore {
 public:
  // `patience`: for all Get calls together.
  RankStore(KeyValueStore& store, absl::Duration patience) : store_(store), patience_(patience) {}

  absl::Status Set(const std::string& key, const std::string& value) { return store_.Set(key, value); }

  // What `rank` has set. DeadlineExceeded names it.
  absl::StatusOr<std::string> Get(const std::string& key, const std::string& rank) {
    const absl::Duration left = patience_ - absl::Seconds(waited_.Elapsed());
    absl::StatusOr<std::string> value = absl::DeadlineExceededError("");
    if (left > absl::ZeroDuration()) value = store_.Get(key, left);
    if (!absl::IsDeadlineExceeded(value.status())) return value;
    return absl::DeadlineExceededError(
        absl::StrCat("rank ", rank, " did not come up within ", absl::FormatDuration(patience_)));
  }

 private:
  KeyValueStore& store_;
  const absl::Duration patience_;
  const Stopwatch waited_;
};

}  // namespace ham::trainer

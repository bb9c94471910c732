// The folder of prepared data sets (prepared_images.h): found there, or made there once a host.
//
// A file is NAME-SPLIT-SIZE-PLACE.prepared, PLACE a hash of the data set's directory; SPLIT is "train", "test", or
// "train+EXTRA" with extra training data. It is used as long as size, times of change and inode of every source file
// are what they were when it was made, so a start reads no source file; `ham-trainer data inspect` reads them all. A
// stale or damaged file is replaced.
#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "worker/trainer/data/prepared_images.h"

namespace ham::trainer {

// Where prepared data sets go unless said: DATA_ROOT/.ham-cache if this user can write there, else
// $XDG_CACHE_HOME/ham/data or ~/.cache/ham/data. Reads the environment.
std::string DefaultCacheDirectory(const std::string& data_root);

// Maps FILE in `directory`, which is made if missing; where the file is missing, stale or damaged, reads the sources
// with `read` and makes it, which takes twice its size in memory for a while. Ranks that come together wait for the one
// that makes it (a lock on the directory). If the directory cannot be used, the result is this process's own and says
// why (ImageSet::not_shared); errors are only those of `read`. `tick` is called while it reads, checks or waits. Any
// thread, any process.
absl::StatusOr<ImageSet> LoadThroughCache(
    const std::string& directory, const std::string& file, const PreparedKey& key,
    const std::function<absl::StatusOr<LabelledImages>(SourceDigest* digest)>& read,
    const std::function<void()>& tick = [] {});

}  // namespace ham::trainer

// Data sets by name, found under a data root. All functions are stateless and safe from any thread.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/trainer/data/image_set.h"
#include "worker/trainer/data/known_data_sets.h"

namespace ham::trainer {

inline constexpr int kMinImageSize = 8;
inline constexpr int kMaxImageSize = 512;

struct LoadOptions {
  int image_size = 0;                // side in pixels, of a data set that is resized; 0 = the table's
  int threads = 0;                   // that decode; 0 = one a core
  std::string cache_directory = {};  // of prepared data sets (data_cache.h); "" = DefaultCacheDirectory
  // Name of extra training data (npz.h), whose rows come after the split's own: for training only; "" = none.
  std::string extra = {};
  // Called on the loading thread with each chunk, and while it waits for another process that prepares the data set.
  std::function<void()> tick = [] {};
};

// What a worker advertises: a data set found under its root, or why it cannot be used.
struct DataSetInfo {
  std::string name;
  std::string path;    // its directory
  std::string digest;  // lower-case hex SHA-256 of the unpacked files, train before test, each split in the order of
                       // the table; in an image folder each file's relative path and a line feed before it; "" unless
                       // status is OK
  absl::Status status;
};

// Names that LoadDataSet knows, sorted.
std::vector<std::string> DataSetNames();

// One split, shared by all ranks of a host (data_cache.h); all of it is checked (readers.h) when it is first read.
// InvalidArgument for an unknown name (lists the known ones), an image_size that the data set does not take or an
// `extra` that is no name; NotFound if the data set is not under `data_root`, or has no such extra data (lists what it
// has); DataLoss names the damaged file and what is wrong with it.
absl::StatusOr<ImageSet> LoadDataSet(const std::string& data_root, const std::string& name, Split split,
                                     const LoadOptions& options = {});

// Reads and checks both splits of every known data set that has a directory under `data_root`.
std::vector<DataSetInfo> InspectDataSets(const std::string& data_root);

}  // namespace ham::trainer

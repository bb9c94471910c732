// Data sets by name, found under a data root. All functions are stateless and safe from any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ham::trainer {

enum class Split { kTrain, kTest };

// N images of C x H x W pixels, wholly in memory.
struct ImageSet {
  int64_t rows = 0;  // N
  int64_t channels = 0;
  int64_t height = 0;
  int64_t width = 0;
  std::vector<uint8_t> images;  // [N, C, H, W], 0 to 255: divide by 255 for pixels in [0, 1]
  std::vector<int64_t> labels;  // [N], in [0, class_names.size())
  std::vector<std::string> class_names;
};

// What a worker advertises: a data set found under its root, or why it cannot be used.
struct DataSetInfo {
  std::string name;
  std::string path;    // its directory
  std::string digest;  // lower-case hex SHA-256 of the unpacked files: train images, train labels, test
                       // images, test labels; "" unless status is OK
  absl::Status status;
};

// Names that LoadDataSet knows, sorted.
std::vector<std::string> DataSetNames();

// Reads one split and checks all of it. InvalidArgument for an unknown name (lists the known ones); NotFound
// if the data set is not under `data_root`; DataLoss names the damaged file and what is wrong with it.
absl::StatusOr<ImageSet> LoadDataSet(const std::string& data_root, const std::string& name, Split split);

// Reads and checks both splits of every known data set that has a directory under `data_root`.
std::vector<DataSetInfo> InspectDataSets(const std::string& data_root);

}  // namespace ham::trainer

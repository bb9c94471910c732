// The one table of data sets: names, formats, shapes, classes, what the official files are and where they come from.
// Adding a data set in a format that is known takes an entry here and nothing else.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "worker/trainer/data/augmentation_options.h"
#include "worker/trainer/data/normalization.h"

namespace ham::trainer {

enum class Split { kTrain, kTest };

enum class DataFormat { kIdx, kCifar10Binary, kCifar100Binary, kMat5, kImageFolder };

struct OfficialFile {
  std::string name;  // in the data set's directory; for an image folder the folder of a split
  std::string md5;   // of the unpacked file; "" where nobody published one
};

struct OfficialSplit {
  std::vector<OfficialFile> files;  // IDX: images, labels
  std::vector<int64_t> class_rows;  // rows of each class of the whole split
};

// A file to fetch, and what to do with it.
struct Download {
  std::string url;
  std::string md5;
  // "" for a file that is kept as it is; for a .tar.gz the folder inside whose content becomes the data set's.
  std::string folder = {};
};

struct KnownDataSet {
  std::string name;  // also its directory under a data root
  DataFormat format;
  int64_t channels, height, width;  // of an image folder: after the default resize
  std::vector<std::string> class_names;
  OfficialSplit train, test;
  Normalization normalization;       // of training images, as commonly rounded; of imagenette those of ImageNet
  AugmentationOptions augmentation;  // of training images unless a job says otherwise
  std::vector<Download> downloads;
  std::vector<std::string> class_folders = {};  // an image folder's, in the order of classes

  const OfficialSplit& split(Split which) const { return which == Split::kTrain ? train : test; }
  bool resizable() const { return format == DataFormat::kImageFolder; }
};

// In the order in which they are shown. Any thread.
const std::vector<KnownDataSet>& KnownDataSets();
// Null if there is none of that name.
const KnownDataSet* FindDataSet(const std::string& name);

// For people: "IDX", "CIFAR-10 binary", ...
const char* FormatName(DataFormat format);

}  // namespace ham::trainer

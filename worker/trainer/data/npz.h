// Extra training data, such as generated or pseudo-labelled images: a file of numpy.savez or savez_compressed with
// the arrays `image`, uint8 [N, H, W, C] (or [N, H, W] where C is 1), and `label`, N integers of any type. Others in
// it are not read. The published sets of generated CIFAR images are such files.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/trainer/data/readers.h"

namespace ham::trainer {

// DIRECTORY/extra/NAME.npz, `directory` a data set's. `name` must be one (IsExtraDataName).
std::string ExtraDataPath(const std::string& directory, const std::string& name);

// Names of the files in DIRECTORY/extra that can be asked for, sorted; none where there is no such folder.
std::vector<std::string> ListExtraData(const std::string& directory);

// Appends the file's rows to `images`, whose shape they must have (height 0: any square, which becomes its shape), and
// counts them as its extra rows. Labels must be in [0, classes). `digest` may be null; else it gets the bytes of pixels
// and of labels, as stored.
// NotFound if there is no such file; DataLoss names file, array and, for a label, the row; `images` is then undefined.
// Counts are checked before memory is taken. Memory: the result, and the stored labels meanwhile; together at most
// 1032x the file (kMostDeflated) and 16 bytes a row. Stateless; any thread.
absl::Status AppendNpz(const std::string& path, size_t classes, LabelledImages* images, SourceDigest* digest);

}  // namespace ham::trainer

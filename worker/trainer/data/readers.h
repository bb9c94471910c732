// One reader a format: a split of a data set, read whole and checked whole.
//
// Each names the file, the offset where it can, and what is wrong: NotFound for a missing file, DataLoss for a damaged
// one. Fewer rows than the official files have are fine. Memory: each states a bound; counts in headers are checked
// against the file's size before anything is allocated. Stateless; safe from any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/trainer/data/known_data_sets.h"
#include "worker/trainer/data/source_files.h"

namespace ham::trainer {

inline constexpr uint64_t kMaxRows = 10'000'000;  // of one split, with extra training data

struct LabelledImages {
  int64_t channels = 0;
  int64_t height = 0;
  int64_t width = 0;
  std::string pixels;           // [N, H, W, C]
  std::vector<int64_t> labels;  // [N], in [0, classes)
  int64_t extra_rows = 0;       // as ImageSet's
};

// The paths that a split is read from. NotFound names a missing folder or IDX file; other files may be missing.
absl::StatusOr<std::vector<std::string>> SourceFiles(const std::string& directory, const KnownDataSet& set,
                                                     Split split);

// By the set's reader. `image_size` and `threads`, both >= 1, are for data sets that are resized.
absl::StatusOr<LabelledImages> ReadSplit(const std::string& directory, const KnownDataSet& set, Split split,
                                         int image_size, int threads, SourceDigest* digest);

// `digest` may be null; else it gets the unpacked bytes of each file, in the order of the table.

// idx.cc. At most 2x the unpacked files.
absl::StatusOr<LabelledImages> ReadIdxSplit(const std::string& directory, const KnownDataSet& set, Split split,
                                            SourceDigest* digest);
// cifar.cc. At most 2x the files.
absl::StatusOr<LabelledImages> ReadCifarSplit(const std::string& directory, const KnownDataSet& set, Split split,
                                              SourceDigest* digest);
// mat5.cc. At most 3x the unpacked pixels, which are at most 1032x the file (kMostDeflated).
absl::StatusOr<LabelledImages> ReadMat5Split(const std::string& directory, const KnownDataSet& set, Split split,
                                             SourceDigest* digest);
// image_folder.cc, `image_size` and `threads` >= 1. At most the result, and for each thread one file and its pixels
// (kMaxJpegPixels and kMaxPixelsPerByte in jpeg.h bound them). The same result for any number of threads.
absl::StatusOr<LabelledImages> ReadImageFolderSplit(const std::string& directory, const KnownDataSet& set, Split split,
                                                    int image_size, int threads, SourceDigest* digest);
// Paths of an image folder's files in the order of rows: by class, then by name. DataLoss if there is anything but
// the classes' folders and plain *.JPEG files in them.
absl::StatusOr<std::vector<std::string>> ListImageFolder(const std::string& directory, const KnownDataSet& set,
                                                         Split split);

// The file that holds an IDX part: `path` or `path`.gz. NotFound if there is neither.
absl::StatusOr<std::string> FindIdxFile(const std::string& path);

}  // namespace ham::trainer

// What `ham-trainer data` says of data sets on disk and of those known. Stateless; safe from any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/trainer/data/known_data_sets.h"

namespace ham::trainer {

enum class Authenticity {
  kOfficial,        // every file has the published digest
  kOfficialCounts,  // no digests are published; each class has the official number of files
  kNotOfficial,     // a subset, or changed
  kExtra,           // extra training data (npz.h), which nothing is known of
};

// A split, extra training data of the directory, or the one file that was asked for.
struct SplitReport {
  std::string name;  // "train", "test", "extra NAME", or the file's name
  absl::Status status = {};
  // Only if status is OK:
  int64_t rows = 0;
  std::vector<int64_t> class_rows = {};  // empty for a file without labels
  std::string digest = {};               // lower-case hex SHA-256 of the unpacked files
  Authenticity authenticity = Authenticity::kNotOfficial;
};

struct DataReport {
  std::string path;
  std::string name;    // of the data set that it is, or looks like
  std::string format;  // for people
  int64_t channels = 0, height = 0, width = 0;
  std::vector<std::string> class_names;
  std::vector<SplitReport> splits;
};

// Reads all of a data set's directory, or of one file, and checks it. NotFound if there is nothing at `path`,
// InvalidArgument if it is nothing that is known; damage is in the report.
absl::StatusOr<DataReport> InspectPath(const std::string& path);

// For people: several lines, the last with a line feed.
std::string ToText(const DataReport& report);
// One line of JSON: {"path", "name", "format", "channels", "height", "width", "splits": [{"name", "error" or ("rows",
// "class_rows" by class name, "digest", "authenticity": official | official_counts | not_official | extra)}]}.
std::string ToJson(const DataReport& report);

// The known data sets, one a line under a head line; or a JSON array of objects with the same fields.
std::string KnownDataSetsAsText();
std::string KnownDataSetsAsJson();

// What deploy/fetch_data.sh reads: a line "URL MD5 FOLDER" a file to fetch, FOLDER "-" where the file is kept as it is.
std::string DownloadsAsText(const KnownDataSet& set);

}  // namespace ham::trainer

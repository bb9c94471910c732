// A data set as a tree SPLIT/CLASS/*.JPEG.
#include <algorithm>
#include <atomic>
#include <filesystem>
#include <functional>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "worker/trainer/data/jpeg.h"
#include "worker/trainer/data/readers.h"

namespace ham::trainer {
namespace {

constexpr uint64_t kMaxJpegBytes = uint64_t{64} << 20;

// Names in a directory, sorted.
absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path) {
  std::error_code error;
  std::vector<std::string> names;
  for (std::filesystem::directory_iterator entry(path, error), end; !error && entry != end; entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  if (error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory) {
    return absl::NotFoundError(absl::StrCat("there is no directory ", path));
  }
  if (error) return absl::UnavailableError(absl::StrCat("cannot list ", path, ": ", error.message()));
  std::sort(names.begin(), names.end());
  return names;
}

absl::Status AddClass(const std::string& folder, std::vector<std::string>* paths) {
  const auto names = ListDirectory(folder);
  if (!names.ok()) return names.status();
  if (names->empty()) return DamagedFile(folder, "it holds no images");
  for (const std::string& name : *names) {
    const std::string path = absl::StrCat(folder, "/", name);
    std::error_code ignored;
    if (!name.ends_with(".JPEG") ||
        std::filesystem::symlink_status(path, ignored).type() != std::filesystem::file_type::regular) {
      return DamagedFile(path, "only plain files named *.JPEG belong into the folder of a class");
    }
    paths->push_back(path);
  }
  return absl::OkStatus();
}

// Decodes many files on threads. The error is that of the first file in their order, whichever thread met it.
class FolderDecoder {
 public:
  FolderDecoder(const std::vector<std::string>& paths, int image_size, std::string* pixels)
      : paths_(paths), image_size_(image_size), pixels_(pixels) {}

  // `tick` is called on this thread, after each of its files.
  absl::Status Run(int threads, const std::function<void()>& tick) {
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back([this] { Work([] {}); });
    Work(tick);
    for (std::thread& thread : others) thread.join();
    absl::MutexLock lock(&mutex_);
    return status_;
  }

 private:
  void Work(const std::function<void()>& tick) {
    JpegDecoder decoder;
    const size_t image_bytes = static_cast<size_t>(image_size_) * static_cast<size_t>(image_size_) * 3;
    for (size_t i = next_++; i < paths_.size() && i < first_bad_; i = next_++) {
      const auto bytes = ReadSourceFile(paths_[i], kMaxJpegBytes);
      const absl::Status status = bytes.ok()
                                      ? decoder.Decode(paths_[i], *bytes, image_size_,
                                                       reinterpret_cast<uint8_t*>(pixels_->data()) + i * image_bytes)
                                      : bytes.status();
      if (!status.ok()) Fail(i, status);
      tick();
    }
  }

  void Fail(size_t file, const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    if (file >= first_bad_) return;
    first_bad_ = file;
    status_ = status;
  }

  const std::vector<std::string>& paths_;
  const int image_size_;
  std::string* const pixels_;  // each file's place is written by one thread
  std::atomic<size_t> next_{0};
  std::atomic<size_t> first_bad_{SIZE_MAX};
  absl::Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

std::string ClassOfPath(const std::string& path) {
  return std::filesystem::path(path).parent_path().filename().string();
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ListImageFolder(const std::string& directory, const KnownDataSet& set,
                                                         Split split) {
  const std::string folder = directory + "/" + set.split(split).files[0].name;
  const auto classes = ListDirectory(folder);
  if (!classes.ok()) return classes.status();
  if (*classes != set.class_folders) {
    const auto differs =
        std::mismatch(classes->begin(), classes->end(), set.class_folders.begin(), set.class_folders.end());
    const bool foreign = differs.first != classes->end() &&
                         !std::binary_search(set.class_folders.begin(), set.class_folders.end(), *differs.first);
    return DamagedFile(
        folder, absl::StrCat(foreign ? *differs.first + " does not belong there" : *differs.second + " is missing",
                             "; its folders are exactly ", absl::StrJoin(set.class_folders, ", ")));
  }
  std::vector<std::string> paths;
  for (const std::string& name : *classes) {
    if (absl::Status status = AddClass(absl::StrCat(folder, "/", name), &paths); !status.ok()) return status;
    if (paths.size() > kMaxRows) return DamagedFile(folder, absl::StrCat("it holds more than ", kMaxRows, " files"));
  }
  return paths;
}

absl::StatusOr<LabelledImages> ReadImageFolderSplit(const std::string& directory, const KnownDataSet& set, Split split,
                                                    int image_size, int threads, SourceDigest* digest) {
  const auto paths = ListImageFolder(directory, set, split);
  if (!paths.ok()) return paths.status();
  LabelledImages out{set.channels, image_size, image_size, {}, {}};
  out.pixels.resize(paths->size() * static_cast<size_t>(image_size) * static_cast<size_t>(image_size) * 3);
  const auto tick = [digest] {
    if (digest != nullptr) digest->Tick();
  };
  FolderDecoder decoder(*paths, image_size, &out.pixels);
  if (absl::Status status = decoder.Run(threads, tick); !status.ok()) return status;
  for (const std::string& path : *paths) {
    const auto& folders = set.class_folders;
    out.labels.push_back(std::find(folders.begin(), folders.end(), ClassOfPath(path)) - folders.begin());
    if (digest == nullptr) continue;
    const auto bytes = ReadSourceFile(path, kMaxJpegBytes);
    if (!bytes.ok()) return bytes.status();
    digest->AddName(path.substr(directory.size() + 1));
    digest->Add(path, *bytes);
  }
  return out;
}

}  // namespace ham::trainer

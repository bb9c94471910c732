#include "tests/support/recorded_disk.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdlib>
#include <filesystem>

#include "tests/support/temporary_directory.h"

namespace ham::testing {
namespace {

namespace fs = std::filesystem;

RecordedDisk* g_current = nullptr;

std::string Parent(const std::string& path) { return fs::path(path).parent_path().string(); }

std::string PathOf(int fd) {
  std::error_code error;
  return fs::read_symlink("/proc/self/fd/" + std::to_string(fd), error).string();
}

bool Exists(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0;
}

}  // namespace

RecordedDisk::RecordedDisk(const std::string& root) : root_(root) {
  if (g_current != nullptr) std::abort();
  g_current = this;
  files_[root_] = 0;
}

RecordedDisk::~RecordedDisk() { g_current = nullptr; }

RecordedDisk* RecordedDisk::current() { return g_current; }

// Of what others made, its making is noted now.
int RecordedDisk::FileAt(const std::string& path) {
  const auto known = files_.find(path);
  if (known != files_.end()) return known->second;
  if (fs::is_directory(path)) {
    NoteMakeDirectory(path);
  } else {
    NoteCreate(path);
    NoteWrite(path, 0, ReadTestFile(path));
  }
  return files_.at(path);
}

void RecordedDisk::AddName(Kind kind, const std::string& path, int file, int needs) {
  operations_.push_back({.kind = kind,
                         .parent = FileAt(Parent(path)),
                         .name = fs::path(path).filename().string(),
                         .file = file,
                         .needs = needs});
}

void RecordedDisk::NoteCreate(const std::string& path) {
  if (!IsBelow(path)) return;
  AddName(Kind::kCreate, path, next_file_);
  files_[path] = next_file_++;
}

void RecordedDisk::NoteMakeDirectory(const std::string& path) {
  if (!IsBelow(path)) return;
  AddName(Kind::kMakeDirectory, path, next_file_);
  files_[path] = next_file_++;
}

void RecordedDisk::NoteWrite(const std::string& path, int64_t offset, std::string data) {
  if (!IsBelow(path)) return;
  operations_.push_back({.kind = Kind::kWrite, .file = FileAt(path), .offset = offset, .data = std::move(data)});
}

void RecordedDisk::NoteSync(const std::string& path) {
  if (!IsBelow(path)) return;
  const int file = FileAt(path);
  operations_.push_back({.kind = fs::is_directory(path) ? Kind::kSyncDirectory : Kind::kSync, .file = file});
}

void RecordedDisk::NoteLink(const std::string& from, const std::string& to) {
  if (!IsBelow(to)) return;
  if (!IsBelow(from)) {
    // Of another, durable tree: its bytes are there already.
    FileAt(to);
    operations_.push_back({.kind = Kind::kSync, .file = files_.at(to)});
    return;
  }
  const int file = FileAt(from);
  AddName(Kind::kLink, to, file);
  files_[to] = file;
}

void RecordedDisk::NoteRename(const std::string& from, const std::string& to) {
  if (!IsBelow(from)) return;
  const int file = files_.at(from);
  AddName(Kind::kLink, to, file);
  files_[to] = file;
  AddName(Kind::kUnlink, from, file, static_cast<int>(operations_.size()) - 1);
  files_.erase(from);
}

void RecordedDisk::NoteUnlink(const std::string& path) {
  if (!IsBelow(path)) return;
  AddName(Kind::kUnlink, path, FileAt(path));
  files_.erase(path);
}

void RecordedDisk::Forget(Kind kind) {
  for (Operation& operation : operations_) {
    if (operation.kind == kind) operation = {.kind = Kind::kWrite, .file = -1};
  }
}

void RecordedDisk::Rebuild(size_t count, std::mt19937_64* random, const std::string& directory) const {
  // Backwards: what was synced later.
  std::vector<bool> happened(count, false);
  std::map<int, bool> bytes_synced;
  std::map<int, bool> names_synced;
  for (size_t i = count; i-- > 0;) {
    const Operation& operation = operations_[i];
    switch (operation.kind) {
      case Kind::kSync:
        bytes_synced[operation.file] = true;
        break;
      case Kind::kSyncDirectory:
        names_synced[operation.file] = true;
        break;
      case Kind::kWrite:
        happened[i] = bytes_synced[operation.file];
        break;
      default:
        happened[i] = names_synced[operation.parent];
    }
    if (!happened[i] && random != nullptr) happened[i] = (*random)() % 2 == 0;
  }
  std::map<int, std::string> bytes;
  std::map<int, std::map<std::string, int>> names;
  std::map<int, bool> is_directory = {{0, true}};
  for (size_t i = 0; i < count; ++i) {
    const Operation& operation = operations_[i];
    if (operation.kind == Kind::kMakeDirectory) is_directory[operation.file] = true;
    if (!happened[i] || (operation.needs >= 0 && !happened[static_cast<size_t>(operation.needs)])) continue;
    if (operation.kind == Kind::kWrite) {
      std::string& file = bytes[operation.file];
      const size_t end = static_cast<size_t>(operation.offset) + operation.data.size();
      if (file.size() < end) file.resize(end, '\0');
      file.replace(static_cast<size_t>(operation.offset), operation.data.size(), operation.data);
    } else if (operation.kind == Kind::kUnlink) {
      const auto found = names[operation.parent].find(operation.name);
      if (found != names[operation.parent].end() && found->second == operation.file) {
        names[operation.parent].erase(found);
      }
    } else if (operation.kind != Kind::kSync && operation.kind != Kind::kSyncDirectory) {
      names[operation.parent][operation.name] = operation.file;
    }
  }
  fs::remove_all(directory);
  std::vector<std::pair<int, std::string>> waiting = {{0, directory}};
  while (!waiting.empty()) {
    const auto [file, path] = waiting.back();
    waiting.pop_back();
    if (is_directory.count(file) == 0) {
      WriteTestFile(path, bytes[file]);
      continue;
    }
    fs::create_directories(path);
    for (const auto& [name, child] : names[file]) waiting.emplace_back(child, path + "/" + name);
  }
}

}  // namespace ham::testing

// ---- in the place of the system's functions ----------------------------------------------------------------

extern "C" {

int __real_open(const char* path, int flags, ...);
ssize_t __real_write(int fd, const void* data, size_t size);
int __real_fsync(int fd);
int __real_rename(const char* from, const char* to);
int __real_unlink(const char* path);
int __real_mkdir(const char* path, mode_t mode);
int __real_link(const char* from, const char* to);

using ham::testing::RecordedDisk;

int __wrap_open(const char* path, int flags, ...) {
  mode_t mode = 0;
  if ((flags & O_CREAT) != 0) {
    va_list arguments;
    va_start(arguments, flags);
    mode = va_arg(arguments, mode_t);
    va_end(arguments);
  }
  const bool is_new = (flags & O_CREAT) != 0 && !ham::testing::Exists(path);
  const int fd = __real_open(path, flags, mode);
  if (fd >= 0 && is_new && RecordedDisk::current() != nullptr) RecordedDisk::current()->NoteCreate(path);
  return fd;
}

ssize_t __wrap_write(int fd, const void* data, size_t size) {
  const ssize_t count = __real_write(fd, data, size);
  const off_t end = count > 0 && RecordedDisk::current() != nullptr ? ::lseek(fd, 0, SEEK_CUR) : -1;
  if (end >= 0) {
    RecordedDisk::current()->NoteWrite(ham::testing::PathOf(fd), end - count,
                                       std::string(static_cast<const char*>(data), static_cast<size_t>(count)));
  }
  return count;
}

int __wrap_fsync(int fd) {
  if (RecordedDisk::current() == nullptr) return __real_fsync(fd);
  RecordedDisk::current()->NoteSync(ham::testing::PathOf(fd));
  return 0;
}

int __wrap_rename(const char* from, const char* to) {
  const int result = __real_rename(from, to);
  if (result == 0 && RecordedDisk::current() != nullptr) RecordedDisk::current()->NoteRename(from, to);
  return result;
}

int __wrap_unlink(const char* path) {
  const int result = __real_unlink(path);
  if (result == 0 && RecordedDisk::current() != nullptr) RecordedDisk::current()->NoteUnlink(path);
  return result;
}

int __wrap_mkdir(const char* path, mode_t mode) {
  const int result = __real_mkdir(path, mode);
  if (result == 0 && RecordedDisk::current() != nullptr) RecordedDisk::current()->NoteMakeDirectory(path);
  return result;
}

int __wrap_link(const char* from, const char* to) {
  const int result = __real_link(from, to);
  if (result == 0 && RecordedDisk::current() != nullptr) RecordedDisk::current()->NoteLink(from, to);
  return result;
}

}  // extern "C"

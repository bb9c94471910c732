// What a program asks of files, recorded, and every state in which a loss of power may leave them.
//
// Needs the link options of artifact_crash_test: they bring open, write, fsync, rename, unlink, mkdir and link of the
// program's own objects here. While a RecordedDisk lives nothing is really
// synced. What is written by others (SQLite) counts as written when it is synced here.
//
// The model: bytes of a file are durable once it was synced after they were written; a name once its directory was.
// Of the rest each write and each change of a name may have happened or not, but the new name of a rename is there when
// the old one is gone. Not modelled: reordered bytes within a write, damage outside of what was written.
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace ham::testing {

// One at a time; one thread.
class RecordedDisk {
 public:
  enum class Kind { kCreate, kWrite, kSync, kMakeDirectory, kSyncDirectory, kLink, kUnlink };
  struct Operation {
    Kind kind = Kind::kCreate;
    int parent = 0;         // of a name that changes: its directory
    std::string name = {};  // in it
    int file = 0;           // whose name, bytes or names it is
    int64_t offset = 0;
    std::string data = {};
    int needs = -1;  // an earlier operation without which this one did not happen; -1: none
  };

  // Records below `root`, which is there.
  explicit RecordedDisk(const std::string& root);
  ~RecordedDisk();
  RecordedDisk(const RecordedDisk&) = delete;
  RecordedDisk& operator=(const RecordedDisk&) = delete;

  size_t operations() const { return operations_.size(); }
  // As if the program had not asked for these.
  void Forget(Kind kind);
  // Makes `directory` what the disk may hold after the first `count` operations: all that is durable, and of the rest a
  // random part, or with a null `random` nothing.
  void Rebuild(size_t count, std::mt19937_64* random, const std::string& directory) const;

  // For the functions that stand in for those of the system.
  static RecordedDisk* current();
  void NoteCreate(const std::string& path);
  void NoteWrite(const std::string& path, int64_t offset, std::string data);
  void NoteSync(const std::string& path);
  void NoteMakeDirectory(const std::string& path);
  void NoteLink(const std::string& from, const std::string& to);
  void NoteRename(const std::string& from, const std::string& to);
  void NoteUnlink(const std::string& path);

 private:
  bool IsBelow(const std::string& path) const { return path == root_ || path.rfind(root_ + "/", 0) == 0; }
  int FileAt(const std::string& path);
  void AddName(Kind kind, const std::string& path, int file, int needs = -1);

  const std::string root_;
  std::vector<Operation> operations_;
  std::map<std::string, int> files_;  // as they are now, by path; the root is 0
  int next_file_ = 1;
};

}  // namespace ham::testing

// A disk for SQLite that can lose power, fill up and fail: a VFS over the default one.
//
// What SQLite writes lies in the real files at once. What of it was synced is kept here beside; so after PowerOff the
// files can be made what a disk may hold then: everything synced, and of the rest nothing or any part. A sync that
// fails loses what it should have kept, as Linux does: a later sync that succeeds does not bring it back.
//
// Not modelled: damage outside the bytes written, syncs that lie.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace ham::testing {

// Any thread, except where said.
class UnsyncedVfs {
 public:
  // Becomes SQLite's default; one at a time. All connections must be closed before it goes.
  UnsyncedVfs();
  ~UnsyncedVfs();
  UnsyncedVfs(const UnsyncedVfs&) = delete;
  UnsyncedVfs& operator=(const UnsyncedVfs&) = delete;

  // The n-th operation from now (1: the next) that changes a file fails with `code`; a write has written its first
  // half. Then the disk is good again, or stays bad until Heal.
  void FailAt(int64_t n, int code, bool stays_bad = false);
  // The power goes at the n-th such operation: it and all later ones, reads too, fail.
  void PowerOffAt(int64_t n);
  // Ends FailAt and PowerOffAt before they came about, and a bad disk.
  void Heal();
  bool powered_off() const;
  // Operations so far that changed files, and those that were to fail and did.
  int64_t operations() const;
  int64_t failures() const;

  // With all connections closed: makes the files what the disk held, and is on again. Of what was not synced a random
  // part is kept, or with a null `random` nothing.
  void PowerOn(std::mt19937_64* random);

 private:
  struct Change {
    int64_t offset = 0;
    std::string data;
    bool truncate = false;  // to `offset`
  };
  struct Disk {  // one file
    bool exists = false;
    std::string synced;
    bool synced_exists = false;
    std::vector<Change> unsynced;
  };
  struct File;
  struct Calls;

  // Counts an operation; SQLITE_OK or what it fails with.
  int Begin(int failed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void Apply(const Change& change, std::string* bytes);

  sqlite3_vfs* const base_;
  sqlite3_vfs vfs_;
  sqlite3_io_methods methods_;
  mutable absl::Mutex mutex_;
  std::map<std::string, Disk> disks_ ABSL_GUARDED_BY(mutex_);  // by path
  int open_files_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t operations_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t failures_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t fail_at_ ABSL_GUARDED_BY(mutex_) = -1;
  int64_t off_at_ ABSL_GUARDED_BY(mutex_) = -1;
  int fail_code_ ABSL_GUARDED_BY(mutex_) = SQLITE_IOERR;
  bool stays_bad_ ABSL_GUARDED_BY(mutex_) = false;
  bool bad_ ABSL_GUARDED_BY(mutex_) = false;
  bool off_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace ham::testing

#include "tests/support/unsynced_vfs.h"

#include <cstdlib>
#include <filesystem>

#include "tests/support/temporary_directory.h"

namespace ham::testing {

namespace fs = std::filesystem;

// What SQLite holds for an open file; the default VFS's own part lies behind it.
struct UnsyncedVfs::File {
  sqlite3_file base;  // first: SQLite sees this
  UnsyncedVfs* owner;
  std::string* path;  // null for temporary files, which are not tracked
  bool makes_names_durable;

  sqlite3_file* real() { return reinterpret_cast<sqlite3_file*>(this + 1); }
};

// SQLite's callbacks.
struct UnsyncedVfs::Calls {
  static File* Of(sqlite3_file* file) { return reinterpret_cast<File*>(file); }
  static sqlite3_file* Real(sqlite3_file* file) { return Of(file)->real(); }
  static UnsyncedVfs* Of(sqlite3_vfs* vfs) { return static_cast<UnsyncedVfs*>(vfs->pAppData); }

  static int Open(sqlite3_vfs* vfs, const char* name, sqlite3_file* opened, int flags, int* out_flags) {
    UnsyncedVfs* owner = Of(vfs);
    File* file = Of(opened);
    *file = {};
    absl::MutexLock lock(&owner->mutex_);
    if (owner->off_) return SQLITE_CANTOPEN;
    const bool tracked = name != nullptr;
    const bool existed = tracked && fs::exists(name);
    const int code = owner->base_->xOpen(owner->base_, name, file->real(), flags, out_flags);
    if (code != SQLITE_OK) return code;
    file->owner = owner;
    ++owner->open_files_;
    if (tracked) {
      file->path = new std::string(name);
      // SQLite's VFS syncs the folder together with a new file of these kinds.
      file->makes_names_durable = (flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL)) != 0;
      const bool known = owner->disks_.count(name) != 0;
      Disk& disk = owner->disks_[name];
      if (!known && existed) {
        disk.synced = ReadTestFile(name);
        disk.synced_exists = true;
      }
      if (known && !existed) disk.unsynced.push_back({0, "", true});  // the old file of this name may come back
      disk.exists = true;
    }
    file->base.pMethods = &owner->methods_;
    return SQLITE_OK;
  }

  static int Close(sqlite3_file* closed) {
    File* file = Of(closed);
    const int code = file->real()->pMethods->xClose(file->real());
    absl::MutexLock lock(&file->owner->mutex_);
    --file->owner->open_files_;
    delete file->path;
    return code;
  }

  static int Delete(sqlite3_vfs* vfs, const char* name, int sync_folder) {
    UnsyncedVfs* owner = Of(vfs);
    absl::MutexLock lock(&owner->mutex_);
    if (const int code = owner->Begin(SQLITE_IOERR_DELETE); code != SQLITE_OK) return code;
    Disk& disk = owner->disks_[name];
    disk.exists = false;
    disk.unsynced.clear();
    if (sync_folder != 0) disk = {};
    return owner->base_->xDelete(owner->base_, name, 0);
  }

  static int Read(sqlite3_file* file, void* data, int size, sqlite3_int64 offset) {
    {
      absl::MutexLock lock(&Of(file)->owner->mutex_);
      if (Of(file)->owner->off_) return SQLITE_IOERR_READ;
    }
    return Real(file)->pMethods->xRead(Real(file), data, size, offset);
  }

  static int Write(sqlite3_file* file, const void* data, int size, sqlite3_int64 offset) {
    UnsyncedVfs* owner = Of(file)->owner;
    absl::MutexLock lock(&owner->mutex_);
    const int failed = owner->Begin(SQLITE_IOERR_WRITE);
    if (failed != SQLITE_OK) size = owner->off_ ? 0 : size / 2;
    const int code = size == 0 ? SQLITE_OK : Real(file)->pMethods->xWrite(Real(file), data, size, offset);
    if (Of(file)->path != nullptr) {
      owner->disks_[*Of(file)->path].unsynced.push_back(
          {offset, std::string(static_cast<const char*>(data), static_cast<size_t>(size)), false});
    }
    return failed != SQLITE_OK ? failed : code;
  }

  static int Truncate(sqlite3_file* file, sqlite3_int64 size) {
    UnsyncedVfs* owner = Of(file)->owner;
    absl::MutexLock lock(&owner->mutex_);
    if (const int failed = owner->Begin(SQLITE_IOERR_TRUNCATE); failed != SQLITE_OK) return failed;
    if (Of(file)->path != nullptr) owner->disks_[*Of(file)->path].unsynced.push_back({size, "", true});
    return Real(file)->pMethods->xTruncate(Real(file), size);
  }

  static int Sync(sqlite3_file* file, int) {
    UnsyncedVfs* owner = Of(file)->owner;
    absl::MutexLock lock(&owner->mutex_);
    const int failed = owner->Begin(SQLITE_IOERR_FSYNC);
    if (Of(file)->path == nullptr || owner->off_) return failed;
    Disk& disk = owner->disks_[*Of(file)->path];
    if (failed == SQLITE_OK) {
      for (const Change& change : disk.unsynced) Apply(change, &disk.synced);
      if (Of(file)->makes_names_durable) {
        for (auto& [path, other] : owner->disks_) other.synced_exists = other.exists;
      }
    }
    disk.unsynced.clear();
    return failed;
  }

  static int Size(sqlite3_file* file, sqlite3_int64* size) { return Real(file)->pMethods->xFileSize(Real(file), size); }
  static int Lock(sqlite3_file* file, int level) { return Real(file)->pMethods->xLock(Real(file), level); }
  static int Unlock(sqlite3_file* file, int level) { return Real(file)->pMethods->xUnlock(Real(file), level); }
  static int CheckLock(sqlite3_file* file, int* out) {
    return Real(file)->pMethods->xCheckReservedLock(Real(file), out);
  }
  static int Control(sqlite3_file* file, int operation, void* argument) {
    return Real(file)->pMethods->xFileControl(Real(file), operation, argument);
  }
  static int SectorSize(sqlite3_file* file) { return Real(file)->pMethods->xSectorSize(Real(file)); }
  static int Characteristics(sqlite3_file* file) { return Real(file)->pMethods->xDeviceCharacteristics(Real(file)); }
  static int ShmMap(sqlite3_file* file, int region, int size, int extend, void volatile** out) {
    return Real(file)->pMethods->xShmMap(Real(file), region, size, extend, out);
  }
  static int ShmLock(sqlite3_file* file, int offset, int count, int flags) {
    return Real(file)->pMethods->xShmLock(Real(file), offset, count, flags);
  }
  static void ShmBarrier(sqlite3_file* file) { Real(file)->pMethods->xShmBarrier(Real(file)); }
  static int ShmUnmap(sqlite3_file* file, int remove) { return Real(file)->pMethods->xShmUnmap(Real(file), remove); }
};

UnsyncedVfs::UnsyncedVfs() : base_(sqlite3_vfs_find(nullptr)), vfs_(*base_), methods_{} {
  vfs_.zName = "ham-unsynced";
  vfs_.pAppData = this;
  vfs_.szOsFile = static_cast<int>(sizeof(File)) + base_->szOsFile;
  vfs_.xOpen = Calls::Open;
  vfs_.xDelete = Calls::Delete;
  methods_.iVersion = 2;  // without memory-mapped reads
  methods_.xClose = Calls::Close;
  methods_.xRead = Calls::Read;
  methods_.xWrite = Calls::Write;
  methods_.xTruncate = Calls::Truncate;
  methods_.xSync = Calls::Sync;
  methods_.xFileSize = Calls::Size;
  methods_.xLock = Calls::Lock;
  methods_.xUnlock = Calls::Unlock;
  methods_.xCheckReservedLock = Calls::CheckLock;
  methods_.xFileControl = Calls::Control;
  methods_.xSectorSize = Calls::SectorSize;
  methods_.xDeviceCharacteristics = Calls::Characteristics;
  methods_.xShmMap = Calls::ShmMap;
  methods_.xShmLock = Calls::ShmLock;
  methods_.xShmBarrier = Calls::ShmBarrier;
  methods_.xShmUnmap = Calls::ShmUnmap;
  if (sqlite3_vfs_register(&vfs_, /*makeDflt=*/1) != SQLITE_OK) std::abort();
}

UnsyncedVfs::~UnsyncedVfs() {
  sqlite3_vfs_unregister(&vfs_);
  sqlite3_vfs_register(base_, /*makeDflt=*/1);
  absl::MutexLock lock(&mutex_);
  if (open_files_ != 0) std::abort();
}

void UnsyncedVfs::FailAt(int64_t n, int code, bool stays_bad) {
  absl::MutexLock lock(&mutex_);
  fail_at_ = operations_ + n;
  fail_code_ = code;
  stays_bad_ = stays_bad;
}

void UnsyncedVfs::PowerOffAt(int64_t n) {
  absl::MutexLock lock(&mutex_);
  off_at_ = operations_ + n;
}

void UnsyncedVfs::Heal() {
  absl::MutexLock lock(&mutex_);
  fail_at_ = off_at_ = -1;
  bad_ = false;
}

bool UnsyncedVfs::powered_off() const {
  absl::MutexLock lock(&mutex_);
  return off_;
}

int64_t UnsyncedVfs::operations() const {
  absl::MutexLock lock(&mutex_);
  return operations_;
}

int64_t UnsyncedVfs::failures() const {
  absl::MutexLock lock(&mutex_);
  return failures_;
}

int UnsyncedVfs::Begin(int failed) {
  ++operations_;
  if (operations_ == off_at_) off_ = true;
  if (off_) return failed;
  const bool due = operations_ == fail_at_;
  if (!due && !bad_) return SQLITE_OK;
  ++failures_;
  bad_ = stays_bad_;
  return fail_code_ == SQLITE_IOERR ? failed : fail_code_;
}

void UnsyncedVfs::Apply(const Change& change, std::string* bytes) {
  const size_t offset = static_cast<size_t>(change.offset);
  if (change.truncate) {
    bytes->resize(offset);
    return;
  }
  if (bytes->size() < offset + change.data.size()) bytes->resize(offset + change.data.size());
  bytes->replace(offset, change.data.size(), change.data);
}

void UnsyncedVfs::PowerOn(std::mt19937_64* random) {
  absl::MutexLock lock(&mutex_);
  if (open_files_ != 0) std::abort();
  const auto coin = [random] { return random != nullptr && ((*random)() & 1) != 0; };
  for (auto& [path, disk] : disks_) {
    fs::remove(path + "-shm");  // memory, not disk
    const bool exists = disk.exists == disk.synced_exists ? disk.exists : disk.synced_exists != coin();
    if (!exists) {
      fs::remove(path);
      continue;
    }
    std::string bytes = disk.synced;
    for (Change change : disk.unsynced) {
      if (!coin()) continue;
      // Some are torn.
      if (!change.truncate && coin() && coin()) change.data.resize((*random)() % (change.data.size() + 1));
      Apply(change, &bytes);
    }
    WriteTestFile(path, bytes);
  }
  disks_.clear();
  fail_at_ = off_at_ = -1;
  bad_ = off_ = false;
}

}  // namespace ham::testing

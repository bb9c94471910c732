// The store on disks that lose power, fill up, fail, and on files cut short.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <random>

#include "server/job_store.h"
#include "tests/server/numbered_transactions.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/unsynced_vfs.h"

namespace ham::server {
namespace {

using ham::testing::ReadTestFile;
using ham::testing::TemporaryDirectory;
using ham::testing::UnsyncedVfs;
using ham::testing::WriteTestFile;

// Commits `count` from `held` on and gives the sizes of the log after each.
std::vector<size_t> CommitAll(JobStore* store, const std::string& path, int held, int count) {
  std::vector<size_t> sizes;
  for (int n = held + 1; n <= held + count; ++n) {
    EXPECT_TRUE(store->Commit(Numbered(n)).ok());
    sizes.push_back(std::filesystem::file_size(path + "-wal"));
  }
  return sizes;
}

TEST(JobStoreCrash, ALogCutAnywhereHoldsExactlyTheWholeTransactionsBeforeTheCut) {
  UnsyncedVfs disk;
  const TemporaryDirectory folder;
  const std::string path = folder / "ham.db";
  const auto store = MustOpen(path);
  const std::vector<size_t> sizes = CommitAll(store.get(), path, 0, 5);
  // As a crash leaves them: the store is open.
  const std::string base = ReadTestFile(path);
  const std::string log = ReadTestFile(path + "-wal");
  ASSERT_EQ(log.size(), sizes.back());
  constexpr size_t kFrame = 24 + 4096;
  const bool every_length = std::getenv("HAM_EVERY_LENGTH") != nullptr;
  int cuts = 0;
  const TemporaryDirectory copy;
  for (size_t length = sizes[1]; length <= log.size(); ++length) {
    // Each length around the frames' headers, each 64th between; with HAM_EVERY_LENGTH (minutes) all of them.
    const size_t in_frame = (length - 32) % kFrame;
    if (!every_length && in_frame > 32 && in_frame < kFrame - 8 && length % 64 != 0) continue;
    std::filesystem::remove(copy / "ham.db-shm");
    WriteTestFile(copy / "ham.db", base);
    WriteTestFile(copy / "ham.db-wal", log.substr(0, length));
    const auto cut = MustOpen(copy / "ham.db");
    ASSERT_NE(cut, nullptr) << length;
    int whole = 0;
    while (whole < 5 && sizes[static_cast<size_t>(whole)] <= length) ++whole;
    ASSERT_EQ(HeldTransactions(cut.get()), whole) << length;
    ++cuts;
  }
  EXPECT_GT(cuts, 1000);
}

TEST(JobStoreCrash, ADamagedLogHoldsTheWholeTransactionsBeforeTheDamage) {
  UnsyncedVfs disk;
  const TemporaryDirectory folder;
  const std::string path = folder / "ham.db";
  const auto store = MustOpen(path);
  const std::vector<size_t> sizes = CommitAll(store.get(), path, 0, 3);
  const std::string base = ReadTestFile(path);
  const TemporaryDirectory copy;
  for (size_t at = sizes[0]; at < sizes.back(); at += 509) {
    std::string log = ReadTestFile(path + "-wal");
    log[at] = static_cast<char>(log[at] ^ 0x10);
    std::filesystem::remove(copy / "ham.db-shm");
    WriteTestFile(copy / "ham.db", base);
    WriteTestFile(copy / "ham.db-wal", log);
    const auto damaged = MustOpen(copy / "ham.db");
    ASSERT_NE(damaged, nullptr) << at;
    ASSERT_EQ(HeldTransactions(damaged.get()), at < sizes[1] ? 1 : 2) << at;
  }
}

// Runs commits, reopenings and checkpoints until the power goes; then all that was acknowledged is there.
void LosePower(uint32_t seed) {
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937_64 random(seed);
  UnsyncedVfs disk;
  const TemporaryDirectory folder;
  const std::string path = folder / "ham.db";
  const size_t bytes = seed % 8 == 0 ? 200000 : 0;  // large enough for checkpoints in between
  int acknowledged = 0;
  int64_t term = 0;
  for (int crash = 0; crash < 4; ++crash) {
    disk.PowerOffAt(1 + static_cast<int64_t>(random() % (bytes == 0 ? 300 : 6000)));
    int tried = acknowledged;
    std::unique_ptr<JobStore> store;
    while (!disk.powered_off()) {
      if (store == nullptr || random() % 8 == 0) {
        store = nullptr;  // closed well
        auto opened = JobStore::Open(path);
        if (!opened.ok()) continue;
        store = *std::move(opened);
        EXPECT_GT(store->term(), term);
        term = store->term();
      }
      tried = acknowledged + 1;
      if (store->Commit(Numbered(tried, bytes)).ok()) acknowledged = tried;
    }
    store = nullptr;
    disk.PowerOn(random() % 3 == 0 ? nullptr : &random);
    store = MustOpen(path);
    ASSERT_NE(store, nullptr);
    EXPECT_GT(store->term(), term);
    term = store->term();
    const int held = HeldTransactions(store.get());
    ASSERT_GE(held, acknowledged);
    ASSERT_LE(held, tried);  // what was under way is there whole or not at all
    acknowledged = held;
  }
}

TEST(JobStoreCrash, WhatWasAcknowledgedSurvivesALossOfPower) {
  for (uint32_t seed = 1; seed <= 64; ++seed) {
    LosePower(seed);
    if (HasFatalFailure()) return;
  }
}

class FailingDisk : public ::testing::TestWithParam<int> {};  // SQLite's code

// Fails each operation of a commit in turn.
TEST_P(FailingDisk, AFailedCommitLeavesNothingAndReopenGoesOn) {
  bool past_the_end = false;
  for (int64_t nth = 1; !past_the_end; ++nth) {
    SCOPED_TRACE(absl::StrCat("operation ", nth));
    UnsyncedVfs disk;
    const TemporaryDirectory folder;
    const std::string path = folder / "ham.db";
    auto store = MustOpen(path);
    CommitAll(store.get(), path, 0, 2);
    disk.FailAt(nth, GetParam());
    const absl::Status status = store->Commit(Numbered(3));
    past_the_end = disk.failures() == 0;
    ASSERT_EQ(status.ok(), past_the_end);
    disk.Heal();
    if (past_the_end) {
      EXPECT_GT(nth, 3);
      break;
    }
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_NE(status.message().find(path), absl::string_view::npos) << status;
    EXPECT_EQ(HeldTransactions(store.get()), 2);
    EXPECT_TRUE(absl::IsUnavailable(store->Commit(Numbered(3))));
    EXPECT_EQ(HeldTransactions(store.get()), 2);
    ASSERT_TRUE(store->Reopen().ok());
    EXPECT_EQ(HeldTransactions(store.get()), 2);
    ASSERT_TRUE(store->Commit(Numbered(3)).ok());
    EXPECT_EQ(HeldTransactions(store.get()), 3);
    // Not only in memory.
    disk.PowerOffAt(1);
    store = nullptr;
    disk.PowerOn(nullptr);
    store = MustOpen(path);
    EXPECT_EQ(HeldTransactions(store.get()), 3);
  }
}

TEST_P(FailingDisk, ACrashAfterAFailedCommitKeepsItWholeOrNotAtAll) {
  std::mt19937_64 random(7);
  bool past_the_end = false;
  for (int64_t nth = 1; !past_the_end; ++nth) {
    for (int round = 0; round < 4; ++round) {
      SCOPED_TRACE(absl::StrCat("seed 7, operation ", nth, ", round ", round));
      UnsyncedVfs disk;
      const TemporaryDirectory folder;
      const std::string path = folder / "ham.db";
      auto store = MustOpen(path);
      CommitAll(store.get(), path, 0, 2);
      disk.FailAt(nth, GetParam());
      past_the_end = store->Commit(Numbered(3)).ok();
      disk.Heal();
      disk.PowerOffAt(1);
      store = nullptr;
      disk.PowerOn(&random);
      store = MustOpen(path);
      ASSERT_NE(store, nullptr);
      const int held = HeldTransactions(store.get());
      EXPECT_TRUE(held == 3 || (held == 2 && !past_the_end)) << held;
    }
  }
}

TEST_P(FailingDisk, AFailedStartCanBeTriedAgain) {
  bool past_the_end = false;
  for (int64_t nth = 1; !past_the_end; ++nth) {
    SCOPED_TRACE(absl::StrCat("operation ", nth));
    UnsyncedVfs disk;
    const TemporaryDirectory folder;
    const std::string path = folder / "ham.db";
    disk.FailAt(nth, GetParam());
    auto opened = JobStore::Open(path);
    past_the_end = opened.ok() && disk.failures() == 0;
    if (!opened.ok()) {
      EXPECT_TRUE(absl::IsUnavailable(opened.status())) << opened.status();
      opened = JobStore::Open(path);
      ASSERT_TRUE(opened.ok()) << opened.status();
    }
    disk.Heal();
    EXPECT_FALSE((*opened)->cluster_id().empty());
    EXPECT_TRUE((*opened)->Commit(Numbered(1)).ok());
    const std::string cluster = (*opened)->cluster_id();
    const int64_t term = (*opened)->term();
    opened->reset();
    const auto again = MustOpen(path);
    EXPECT_EQ(again->cluster_id(), cluster);
    EXPECT_GT(again->term(), term);
    EXPECT_EQ(HeldTransactions(again.get()), 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Codes, FailingDisk, ::testing::Values(SQLITE_FULL, SQLITE_IOERR),
                         [](const auto& suite) { return suite.param == SQLITE_FULL ? "Full" : "InputOutput"; });

TEST(JobStoreCrash, ReopenFailsAsLongAsTheDiskIsBadWhileReadsGoOn) {
  UnsyncedVfs disk;
  const TemporaryDirectory folder;
  const std::string path = folder / "ham.db";
  const auto store = MustOpen(path);
  CommitAll(store.get(), path, 0, 2);
  disk.FailAt(1, SQLITE_FULL, /*stays_bad=*/true);
  EXPECT_TRUE(absl::IsUnavailable(store->Commit(Numbered(3))));
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(absl::IsUnavailable(store->Reopen()));
    EXPECT_TRUE(absl::IsUnavailable(store->Commit(Numbered(3))));
    EXPECT_EQ(HeldTransactions(store.get()), 2);
  }
  disk.Heal();
  EXPECT_TRUE(store->Reopen().ok());
  EXPECT_TRUE(store->Commit(Numbered(3)).ok());
  EXPECT_EQ(HeldTransactions(store.get()), 3);
}

// The log is moved into the main file after some commit. A failure of that fails the next one, and loses nothing.
TEST(JobStoreCrash, ReopenReadsTheWholeFileOnlyOnceItTakesWrites) {
  UnsyncedVfs disk;
  const TemporaryDirectory folder;
  const std::string path = folder / "ham.db";
  int64_t page = 0;  // that no commit below needs
  {
    ASSERT_TRUE(MustOpen(path)->Commit(Numbered(1)).ok());
    const auto database = Database::Open(path, Database::Mode::kReadOnly);
    Statement root(database->get(), "SELECT rootpage FROM sqlite_schema WHERE name = 'contents'");
    ASSERT_TRUE(*root.Step());
    page = root.Int(0);
  }
  std::string file = ReadTestFile(path);
  file[static_cast<size_t>(page - 1) * 4096] = '\xff';
  WriteTestFile(path, file);
  const auto store = MustOpen(path);
  Transaction transaction;
  transaction.jobs[kJob] = NamedRow(kJob, 2);
  disk.FailAt(1, SQLITE_IOERR, /*stays_bad=*/true);
  ASSERT_FALSE(store->Commit(transaction).ok());
  EXPECT_TRUE(absl::IsUnavailable(store->Reopen())) << store->Reopen();
  disk.Heal();
  EXPECT_TRUE(absl::IsDataLoss(store->Reopen())) << store->Reopen();
  EXPECT_TRUE(absl::IsUnavailable(store->Commit(transaction)));
}

TEST(JobStoreCrash, AFailedCheckpointClosesTheStoreAndLosesNothing) {
  constexpr size_t kBytes = 250000;
  UnsyncedVfs disk;
  const TemporaryDirectory folder;
  const std::string path = folder / "ham.db";
  auto store = MustOpen(path);
  const auto base_size = std::filesystem::file_size(path);
  int held = 0;
  // Operations of a commit, with room for what varies; more than that is the checkpoint's.
  int64_t most = 0;
  while (held < 100) {
    const int64_t before = disk.operations();
    ASSERT_TRUE(store->Commit(Numbered(held + 1, kBytes)).ok());
    ++held;
    if (std::filesystem::file_size(path) > base_size) break;
    most = std::max(most, disk.operations() - before);
  }
  ASSERT_GT(std::filesystem::file_size(path), base_size) << "no checkpoint came";
  // The log is used from its start again; the next checkpoint comes after as many commits.
  const int period = held;
  for (int n = 1; n < period - 1; ++n) ASSERT_TRUE(store->Commit(Numbered(++held, kBytes)).ok());
  int64_t failed_at = 0;
  for (int n = 0; n < 4 && failed_at == 0; ++n) {
    disk.FailAt(most + 10, SQLITE_IOERR);
    ASSERT_TRUE(store->Commit(Numbered(++held, kBytes)).ok());
    failed_at = disk.failures();
    disk.Heal();
  }
  ASSERT_EQ(failed_at, 1);
  EXPECT_TRUE(absl::IsUnavailable(store->Commit(Numbered(held + 1, kBytes))));
  EXPECT_EQ(HeldTransactions(store.get()), held);
  ASSERT_TRUE(store->Reopen().ok());
  ASSERT_TRUE(store->Commit(Numbered(++held, kBytes)).ok());
  disk.PowerOffAt(1);
  store = nullptr;
  disk.PowerOn(nullptr);
  store = MustOpen(path);
  EXPECT_EQ(HeldTransactions(store.get()), held);
}

}  // namespace
}  // namespace ham::server

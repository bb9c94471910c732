#include "server/job_store.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "server/crc32c.h"
#include "tests/support/temporary_directory.h"

namespace ham::server {
namespace {

namespace fs = std::filesystem;
using ham::testing::TemporaryDirectory;

constexpr char kJob[] = "projects/default/jobs/j1";

JobRow Row(const std::string& name, int attempt) {
  JobRow row;
  row.name = name;
  row.submit_index = 7;
  row.state = ham::v1::Job::RUNNING;
  row.creator = "admin";
  row.world_size = 2;
  row.device = "cpu";
  row.data_set = "fashion-mnist";
  row.attempt = attempt;
  row.gang = {{0, "w0", 3, 1}, {1, "w1", 4, 0}};
  row.failed_attempts = 2;
  row.create_time = absl::FromUnixSeconds(1000);
  row.start_time = absl::FromUnixSeconds(1001);
  row.checkpoint.emplace().set_iteration(90);
  return row;
}

std::shared_ptr<const ham::v1::JobRecord> Record(int64_t sequence) {
  auto record = std::make_shared<ham::v1::JobRecord>();
  record->set_sequence(sequence);
  record->mutable_log()->set_text("line " + std::to_string(sequence));
  return record;
}

// Transaction n: a new state of the job and its record n.
Transaction Numbered(int n) {
  Transaction transaction;
  transaction.jobs[kJob] = Row(kJob, n);
  transaction.records[kJob] = {Record(n)};
  transaction.spools = {{kJob, 1, 0, n}};
  return transaction;
}

std::unique_ptr<JobStore> MustOpen(const std::string& path) {
  absl::StatusOr<std::unique_ptr<JobStore>> store = JobStore::Open(path);
  EXPECT_TRUE(store.ok()) << store.status().message();
  return store.ok() ? *std::move(store) : nullptr;
}

TEST(Crc32c, KnownAnswers) {  // RFC 3720 B.4
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc32c("6789", Crc32c("12345")), 0xe3069283u);
}

TEST(JobStore, KeepsEverythingAcrossReopening) {
  const TemporaryDirectory folder;
  Transaction transaction = Numbered(1);
  transaction.contents[kJob].labels["team"] = "a";
  transaction.contents[kJob].spec.mutable_train()->set_epochs(3);
  transaction.workers["w0"] = {"w0", "gpu-1", "inc", 3};
  transaction.requests = {{"admin", "r1", "hash", kJob, absl::FromUnixSeconds(5000)}};
  std::string cluster;
  {
    const auto store = MustOpen(folder / "ham.db");
    cluster = store->cluster_id();
    EXPECT_EQ(store->term(), 1);
    ASSERT_TRUE(store->Commit(transaction).ok());
  }
  const auto store = MustOpen(folder / "ham.db");
  EXPECT_EQ(store->cluster_id(), cluster);
  EXPECT_EQ(store->term(), 2);
  const absl::StatusOr<Store::Contents> contents = store->Load();
  ASSERT_TRUE(contents.ok());
  ASSERT_EQ(contents->jobs.size(), 1u);
  const JobRow& row = contents->jobs[0];
  EXPECT_EQ(row.name, kJob);
  EXPECT_EQ(row.submit_index, 7);
  EXPECT_EQ(row.state, ham::v1::Job::RUNNING);
  EXPECT_EQ(row.failed_attempts, 2);
  ASSERT_EQ(row.gang.size(), 2u);
  EXPECT_EQ(row.gang[1].worker_id, "w1");
  EXPECT_EQ(row.gang[1].session, 4);
  EXPECT_EQ(row.start_time, absl::FromUnixSeconds(1001));
  EXPECT_EQ(row.end_time, absl::InfinitePast());
  EXPECT_EQ(row.checkpoint->iteration(), 90);
  ASSERT_EQ(contents->workers.size(), 1u);
  EXPECT_EQ(contents->workers[0].session, 3);
  EXPECT_EQ(contents->last_sequence.at(kJob), 1);
  EXPECT_EQ(store->GetContent(kJob)->labels.at("team"), "a");
  EXPECT_EQ(store->GetContent(kJob)->spec.train().epochs(), 3);
  EXPECT_EQ(*store->GetSpool(kJob, 1, 0), 1);
  EXPECT_EQ(*store->GetSpool(kJob, 1, 1), 0);
  EXPECT_EQ((*store->GetRequest("admin", "r1", absl::FromUnixSeconds(4000)))->job, kJob);
  EXPECT_FALSE((*store->GetRequest("admin", "r1", absl::FromUnixSeconds(6000))).has_value());
  EXPECT_TRUE(absl::IsNotFound(store->GetContent("projects/default/jobs/j2").status()));
}

TEST(JobStore, ReadsTheLogInPages) {
  const TemporaryDirectory folder;
  const auto store = MustOpen(folder / "ham.db");
  Transaction transaction;
  for (int i = 1; i <= 10; ++i) transaction.records[kJob].push_back(Record(i));
  ASSERT_TRUE(store->Commit(transaction).ok());
  const auto page = store->ReadLog(kJob, 4, 3);
  ASSERT_TRUE(page.ok());
  ASSERT_EQ(page->size(), 3u);
  EXPECT_EQ(page->front()->sequence(), 5);
  EXPECT_EQ(page->back()->log().text(), "line 7");
  EXPECT_TRUE(store->ReadLog(kJob, 10, 3)->empty());
}

// The log file cut at each length: whole transactions from the first on, and all of them when nothing is missing.
TEST(JobStore, ACutFileHoldsWholeTransactions) {
  const TemporaryDirectory folder;
  const std::string path = folder / "ham.db";
  const auto store = MustOpen(path);
  constexpr int kTransactions = 4;
  for (int n = 1; n <= kTransactions; ++n) ASSERT_TRUE(store->Commit(Numbered(n)).ok());
  // As a crash leaves them: the store is still open.
  const std::string base = ham::testing::ReadTestFile(path);
  const std::string wal = ham::testing::ReadTestFile(path + "-wal");
  int seen = 0;
  for (size_t length = wal.size();; length -= std::min<size_t>(length, 509)) {
    const TemporaryDirectory copy;
    ham::testing::WriteTestFile(copy / "ham.db", base);
    ham::testing::WriteTestFile(copy / "ham.db-wal", wal.substr(0, length));
    const absl::StatusOr<std::unique_ptr<JobStore>> cut = JobStore::Open(copy / "ham.db");
    ASSERT_TRUE(cut.ok()) << length << ": " << cut.status().message();
    const absl::StatusOr<Store::Contents> contents = (*cut)->Load();
    ASSERT_TRUE(contents.ok()) << length;
    const int held = contents->jobs.empty() ? 0 : contents->jobs[0].attempt;
    if (length == wal.size()) {
      EXPECT_EQ(held, kTransactions);
    }
    EXPECT_EQ(contents->last_sequence.count(kJob) == 0 ? 0 : contents->last_sequence.at(kJob), held) << length;
    EXPECT_EQ(*(*cut)->GetSpool(kJob, 1, 0), held) << length;
    seen |= 1 << held;
    if (length == 0) break;
  }
  EXPECT_EQ(seen, (1 << (kTransactions + 1)) - 1);
}

TEST(JobStore, AFailedCommitClosesItUntilReopened) {
  const TemporaryDirectory folder;
  const auto store = MustOpen(folder / "ham.db");
  ASSERT_TRUE(store->Commit(Numbered(1)).ok());
  Transaction twice = Numbered(2);
  twice.records[kJob].push_back(Record(1));  // its sequence is taken
  EXPECT_FALSE(store->Commit(twice).ok());
  EXPECT_TRUE(absl::IsUnavailable(store->Commit(Numbered(2))));
  EXPECT_EQ(store->ReadLog(kJob, 0, 10)->size(), 1u);
  ASSERT_TRUE(store->Reopen().ok());
  ASSERT_TRUE(store->Commit(Numbered(2)).ok());
  EXPECT_EQ(store->ReadLog(kJob, 0, 10)->size(), 2u);
}

TEST(JobStore, ReopenRefusesAStoreThatAnotherTookOver) {
  const TemporaryDirectory folder;
  const auto store = MustOpen(folder / "ham.db");
  const auto other = MustOpen(folder / "ham.db");
  EXPECT_EQ(other->term(), store->term() + 1);
  EXPECT_TRUE(absl::IsFailedPrecondition(store->Reopen()));
}

TEST(JobStore, NamesADamagedRow) {
  const TemporaryDirectory folder;
  const auto store = MustOpen(folder / "ham.db");
  ASSERT_TRUE(store->Commit(Numbered(1)).ok());
  const auto database = Database::Open(folder / "ham.db", Database::Mode::kReadWriteCreate);
  ASSERT_TRUE((*database)->Execute("UPDATE records SET row = x'00'; UPDATE jobs SET crc = crc + 1").ok());
  const auto log = store->ReadLog(kJob, 0, 10);
  EXPECT_TRUE(absl::IsDataLoss(log.status()));
  EXPECT_NE(log.status().message().find("record 1"), absl::string_view::npos);
  EXPECT_TRUE(absl::IsDataLoss(store->Load().status()));
}

TEST(JobStore, RefusesANewerSchemaAndWhatIsNoDatabase) {
  const TemporaryDirectory folder;
  MustOpen(folder / "ham.db");
  {
    const auto database = Database::Open(folder / "ham.db", Database::Mode::kReadWriteCreate);
    ASSERT_TRUE((*database)->Execute("PRAGMA user_version = 99").ok());
  }
  EXPECT_TRUE(absl::IsFailedPrecondition(JobStore::Open(folder / "ham.db").status()));
  ham::testing::WriteTestFile(folder / "text.db", std::string(4096, 'x'));
  EXPECT_TRUE(absl::IsDataLoss(JobStore::Open(folder / "text.db").status()));
  EXPECT_FALSE(JobStore::Open(folder / "missing/ham.db").ok());
}

}  // namespace
}  // namespace ham::server

#include "server/job_store.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "server/crc32c.h"
#include "server/network_file_system.h"
#include "tests/server/numbered_transactions.h"
#include "tests/support/temporary_directory.h"

namespace ham::server {
namespace {

using ham::testing::ReadTestFile;
using ham::testing::TemporaryDirectory;
using ham::testing::WriteTestFile;

// A second connection to the file.
void ExecuteOn(const std::string& path, const std::string& sql) {
  const auto database = Database::Open(path, Database::Mode::kReadWriteCreate);
  ASSERT_TRUE(database.ok()) << database.status();
  const absl::Status status = (*database)->Execute(sql.c_str());
  ASSERT_TRUE(status.ok()) << status;
}

JobRow FullRow() {
  JobRow row;
  row.name = kJob;
  row.submit_index = 7;
  row.state = ham::v1::Job::RUNNING;
  row.state_reason = "RUNNING";
  row.state_message = "trains; \xff is no UTF-8";
  row.creator = "admin";
  row.world_size = 2;
  row.device = "cpu";
  row.pool = true;
  row.next_rank = 5;
  row.record_digest = "def";
  row.data_digest = "d1";
  row.build_id = "b1";
  row.data_set = "fashion-mnist";
  row.max_attempts = 9;
  row.attempt = 4;
  row.gang = {{0, "w0", 3, 1, true}, {1, "w1", 4, 0, false}};
  row.failed_attempts = 2;
  row.failure_class = ham::v1::WORKER_LOST;
  row.checkpoint.emplace().set_iteration(90);
  row.checkpoint->set_manifest_digest("abc");
  row.older_checkpoints = {*row.checkpoint, *row.checkpoint};
  row.older_checkpoints[1].set_iteration(80);
  row.create_time = absl::FromUnixNanos(1700000000123456789);
  row.start_time = absl::UnixEpoch();  // not the same as never
  row.end_time = absl::InfinitePast();
  return row;
}

void ExpectEqual(const JobRow& a, const JobRow& b) {
  EXPECT_EQ(a.name, b.name);
  EXPECT_EQ(a.submit_index, b.submit_index);
  EXPECT_EQ(a.state, b.state);
  EXPECT_EQ(a.state_reason, b.state_reason);
  EXPECT_EQ(a.state_message, b.state_message);
  EXPECT_EQ(a.creator, b.creator);
  EXPECT_EQ(a.world_size, b.world_size);
  EXPECT_EQ(a.device, b.device);
  EXPECT_EQ(a.pool, b.pool);
  EXPECT_EQ(a.next_rank, b.next_rank);
  EXPECT_EQ(a.record_digest, b.record_digest);
  EXPECT_EQ(a.data_digest, b.data_digest);
  EXPECT_EQ(a.build_id, b.build_id);
  EXPECT_EQ(a.data_set, b.data_set);
  EXPECT_EQ(a.max_attempts, b.max_attempts);
  EXPECT_EQ(a.attempt, b.attempt);
  ASSERT_EQ(a.gang.size(), b.gang.size());
  for (size_t i = 0; i < a.gang.size(); ++i) {
    EXPECT_EQ(a.gang[i].rank, b.gang[i].rank);
    EXPECT_EQ(a.gang[i].worker_id, b.gang[i].worker_id);
    EXPECT_EQ(a.gang[i].session, b.gang[i].session);
    EXPECT_EQ(a.gang[i].slot, b.gang[i].slot);
    EXPECT_EQ(a.gang[i].succeeded, b.gang[i].succeeded);
  }
  EXPECT_EQ(a.failed_attempts, b.failed_attempts);
  EXPECT_EQ(a.failure_class, b.failure_class);
  ASSERT_EQ(a.checkpoint.has_value(), b.checkpoint.has_value());
  if (a.checkpoint) {
    EXPECT_EQ(a.checkpoint->SerializeAsString(), b.checkpoint->SerializeAsString());
  }
  ASSERT_EQ(a.older_checkpoints.size(), b.older_checkpoints.size());
  for (size_t i = 0; i < a.older_checkpoints.size(); ++i) {
    EXPECT_EQ(a.older_checkpoints[i].SerializeAsString(), b.older_checkpoints[i].SerializeAsString());
  }
  EXPECT_EQ(a.create_time, b.create_time);
  EXPECT_EQ(a.start_time, b.start_time);
  EXPECT_EQ(a.end_time, b.end_time);
}

TEST(Crc32c, KnownAnswers) {  // RFC 3720 B.4
  EXPECT_EQ(Crc32c(""), 0u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc32c("6789", Crc32c("12345")), 0xe3069283u);
}

TEST(NetworkFileSystem, IsToldFromLocalOnes) {
  for (const uint32_t type : {0x6969u, 0xff534d42u, 0xfe534d42u, 0x517bu, 0x65735546u}) {
    EXPECT_TRUE(NetworkFileSystemName(type).has_value()) << std::hex << type;
  }
  for (const uint32_t type :
       {0xef53u, 0x01021994u, 0x58465342u, 0x9123683eu, 0x794c7630u}) {  // ext4 tmpfs xfs btrfs overlay
    EXPECT_FALSE(NetworkFileSystemName(type).has_value()) << std::hex << type;
  }
}

TEST(JobStore, KeepsEverythingAcrossReopening) {
  const TemporaryDirectory folder;
  Transaction transaction;
  transaction.jobs[kJob] = FullRow();
  transaction.jobs[JobName(1)] = NamedRow(JobName(1), 8);
  transaction.contents[kJob].labels = {{"team", "a"}, {"empty", ""}};
  transaction.contents[kJob].spec.mutable_train()->set_epochs(3);
  transaction.workers["w0"] = {.worker_id = "w0",
                               .name = "gpu-1",
                               .incarnation = "inc",
                               .incarnation_number = 5,
                               .session = 3,
                               .excluded = true};
  transaction.records[kJob] = {LogRecord(1), LogRecord(2)};
  transaction.spools = {{kJob, 4, 1, 17}};
  transaction.requests = {{"admin", "r1", "hash", kJob, absl::FromUnixNanos(5000000000123)}};
  std::string cluster;
  std::string epoch;
  {
    const auto store = MustOpen(folder / "ham.db");
    cluster = store->cluster_id();
    epoch = store->log_epoch();
    EXPECT_EQ(store->term(), 1);
    ASSERT_TRUE(store->Commit(transaction).ok());
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "ham.db-wal"));  // closed well: one file is left
  const auto store = MustOpen(folder / "ham.db");
  EXPECT_EQ(store->cluster_id(), cluster);
  EXPECT_EQ(store->log_epoch(), epoch);
  EXPECT_NE(cluster, epoch);
  EXPECT_EQ(store->term(), 2);
  const absl::StatusOr<Store::Contents> contents = store->Load();
  ASSERT_TRUE(contents.ok()) << contents.status();
  ASSERT_EQ(contents->jobs.size(), 2u);
  ExpectEqual(contents->jobs[0], FullRow());
  ExpectEqual(contents->jobs[1], NamedRow(JobName(1), 8));
  ASSERT_EQ(contents->workers.size(), 1u);
  EXPECT_EQ(contents->workers[0].worker_id, "w0");
  EXPECT_EQ(contents->workers[0].name, "gpu-1");
  EXPECT_EQ(contents->workers[0].incarnation, "inc");
  EXPECT_EQ(contents->workers[0].incarnation_number, 5);
  EXPECT_EQ(contents->workers[0].session, 3);
  EXPECT_TRUE(contents->workers[0].excluded);
  EXPECT_EQ(contents->last_sequence, (std::map<std::string, int64_t>{{kJob, 2}, {JobName(1), 0}}));
  const absl::StatusOr<JobContent> content = store->GetContent(kJob);
  ASSERT_TRUE(content.ok()) << content.status();
  EXPECT_EQ(content->labels, transaction.contents[kJob].labels);
  EXPECT_EQ(content->spec.SerializeAsString(), transaction.contents[kJob].spec.SerializeAsString());
  EXPECT_TRUE(absl::IsNotFound(store->GetContent(JobName(1)).status()));
  EXPECT_EQ(*store->GetLabels(kJob), transaction.contents[kJob].labels);
  EXPECT_TRUE(absl::IsNotFound(store->GetLabels(JobName(1)).status()));
  EXPECT_EQ(store->ReadLog(kJob, 1, 10, kAnyBytes)->at(0)->SerializeAsString(), LogRecord(2)->SerializeAsString());
  EXPECT_EQ(*store->GetSpool(kJob, 4, 1), 17);
  EXPECT_EQ(*store->GetSpool(kJob, 4, 0), 0);
  EXPECT_EQ(*store->GetSpool(kJob, 3, 1), 0);
  const auto request = store->GetRequest("admin", "r1", absl::FromUnixNanos(5000000000123));
  ASSERT_TRUE(request.ok() && request->has_value());
  EXPECT_EQ((*request)->principal, "admin");
  EXPECT_EQ((*request)->request_id, "r1");
  EXPECT_EQ((*request)->request_hash, "hash");
  EXPECT_EQ((*request)->job, kJob);
  EXPECT_EQ((*request)->time, absl::FromUnixNanos(5000000000123));
  EXPECT_FALSE(store->GetRequest("admin", "r1", absl::FromUnixNanos(5000000000124))->has_value());
  EXPECT_FALSE(store->GetRequest("worker", "r1", absl::InfinitePast())->has_value());
}

TEST(JobStore, LaterRowsTakeThePlaceOfEarlierOnes) {
  const TemporaryDirectory folder;
  const auto store = MustOpen(folder / "ham.db");
  for (int n = 1; n <= 20; ++n) {
    ASSERT_TRUE(store->Commit(Numbered(n)).ok());
    ASSERT_EQ(HeldTransactions(store.get()), n);
  }
  EXPECT_TRUE(store->Commit(Transaction()).ok());
}

TEST(JobStore, ReadsTheLogInPages) {
  const TemporaryDirectory folder;
  const auto store = MustOpen(folder / "ham.db");
  Transaction transaction;
  for (const int n : {0, 1, 2}) {  // neighbours, whose logs lie beside
    transaction.jobs[JobName(n)] = NamedRow(JobName(n), n);
    for (int i = 1; i <= 10; ++i) transaction.records[JobName(n)].push_back(LogRecord(i));
  }
  ASSERT_TRUE(store->Commit(transaction).ok());
  for (const int n : {0, 1, 2}) {
    const auto page = store->ReadLog(JobName(n), 4, 3, kAnyBytes);
    ASSERT_TRUE(page.ok()) << page.status();
    ASSERT_EQ(page->size(), 3u);
    EXPECT_EQ(page->front()->sequence(), 5);
    EXPECT_EQ(page->back()->log().text(), "line 7 ");
    EXPECT_EQ(store->ReadLog(JobName(n), 0, 100, kAnyBytes)->size(), 10u);
    EXPECT_EQ(store->ReadLog(JobName(n), 9, 100, kAnyBytes)->size(), 1u);
    EXPECT_TRUE(store->ReadLog(JobName(n), 10, 3, kAnyBytes)->empty());
    EXPECT_TRUE(store->ReadLog(JobName(n), INT64_MAX, 3, kAnyBytes)->empty());
    EXPECT_TRUE(store->ReadLog(JobName(n), 0, 0, kAnyBytes)->empty());
    const size_t bytes = LogRecord(1)->ByteSizeLong();
    EXPECT_EQ(store->ReadLog(JobName(n), 0, 100, 3 * bytes)->size(), 3u);
    EXPECT_EQ(store->ReadLog(JobName(n), 0, 100, 1)->size(), 1u);
  }
  EXPECT_TRUE(absl::IsNotFound(store->ReadLog(JobName(3), 0, 1, kAnyBytes).status()));
}

TEST(JobStore, TellsPrunedRecordsFromLostOnes) {
  const TemporaryDirectory folder;
  const auto store = MustOpen(folder / "ham.db");
  Transaction transaction;
  transaction.jobs[kJob] = NamedRow(kJob, 1);
  for (int i = 1; i <= 10; ++i) transaction.records[kJob].push_back(LogRecord(i));
  ASSERT_TRUE(store->Commit(transaction).ok());
  ExecuteOn(folder / "ham.db", "DELETE FROM records WHERE key & 0xff <= 4");
  EXPECT_TRUE(absl::IsOutOfRange(store->ReadLog(kJob, 0, 10, kAnyBytes).status()));
  EXPECT_TRUE(absl::IsOutOfRange(store->ReadLog(kJob, 3, 10, kAnyBytes).status()));
  EXPECT_EQ(store->ReadLog(kJob, 4, 10, kAnyBytes)->size(), 6u);
  ExecuteOn(folder / "ham.db", "DELETE FROM records WHERE key & 0xff = 8");
  EXPECT_EQ(store->ReadLog(kJob, 4, 3, kAnyBytes)->size(), 3u);
  EXPECT_TRUE(absl::IsDataLoss(store->ReadLog(kJob, 4, 10, kAnyBytes).status()));
  const absl::Status status = store->ReadLog(kJob, 7, 10, kAnyBytes).status();
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_NE(status.message().find("record 8"), absl::string_view::npos) << status;
}

TEST(JobStore, ForgetsRequestsSevenDaysBeforeTheNewest) {
  const TemporaryDirectory folder;
  const auto store = MustOpen(folder / "ham.db");
  const absl::Time start = absl::FromUnixSeconds(1000000);
  const auto add = [&](const std::string& id, absl::Duration after) {
    Transaction transaction;
    transaction.requests = {{"admin", id, "hash", kJob, start + after}};
    ASSERT_TRUE(store->Commit(transaction).ok());
  };
  const auto has = [&](const std::string& id) {
    return store->GetRequest("admin", id, absl::InfinitePast())->has_value();
  };
  add("old", absl::ZeroDuration());
  add("week", absl::Hours(7 * 24));
  EXPECT_TRUE(has("old"));
  add("later", absl::Hours(7 * 24) + absl::Nanoseconds(1));
  EXPECT_FALSE(has("old"));
  EXPECT_TRUE(has("week"));
  add("week", absl::Hours(15 * 24));  // used again when the old use no longer counts
  EXPECT_EQ((*store->GetRequest("admin", "week", absl::InfinitePast()))->time, start + absl::Hours(15 * 24));
}

TEST(JobStore, ABrokenTransactionLeavesNothingAndClosesTheStoreUntilReopened) {
  const TemporaryDirectory folder;
  const auto store = MustOpen(folder / "ham.db");
  ASSERT_TRUE(store->Commit(Numbered(1)).ok());
  Transaction gap = Numbered(2);
  gap.records[kJob].push_back(LogRecord(8));
  Transaction taken = Numbered(2);
  taken.records[kJob] = {LogRecord(1)};
  Transaction unknown = Numbered(2);
  unknown.records[JobName(9)] = {LogRecord(1)};
  Transaction content = Numbered(2);
  content.contents[JobName(1)] = {};  // never changes
  for (const Transaction& broken : {gap, taken, unknown, content}) {
    EXPECT_FALSE(store->Commit(broken).ok());
    EXPECT_TRUE(absl::IsUnavailable(store->Commit(Numbered(2))));
    EXPECT_EQ(HeldTransactions(store.get()), 1);
    const absl::Status status = store->Reopen();
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(HeldTransactions(store.get()), 1);
  }
  ASSERT_TRUE(store->Commit(Numbered(2)).ok());
  EXPECT_EQ(HeldTransactions(store.get()), 2);
}

TEST(JobStore, AStoreThatAnotherTookOverIsNotWrittenTo) {
  const TemporaryDirectory folder;
  const auto store = MustOpen(folder / "ham.db");
  ASSERT_TRUE(store->Commit(Numbered(1)).ok());
  const auto other = MustOpen(folder / "ham.db");
  EXPECT_EQ(other->term(), store->term() + 1);
  const absl::Status status = store->Commit(Numbered(2));
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(absl::IsFailedPrecondition(store->Reopen()));
  EXPECT_EQ(HeldTransactions(other.get()), 1);
  EXPECT_TRUE(other->Commit(Numbered(2)).ok());
  EXPECT_EQ(HeldTransactions(other.get()), 2);
}

// Sets meta.commits as a disk that lost or kept a transaction against its word would have it.
void MoveCommits(const std::string& path, int64_t by) {
  StoreHead head;
  {
    const auto database = Database::Open(path, Database::Mode::kReadOnly);
    head = *ReadHead(database->get());
  }
  head.commits += by;
  ExecuteOn(path, absl::StrCat("UPDATE meta SET commits = ", head.commits, ", crc = ", HeadCrc(head)));
}

TEST(JobStore, ReopenNoticesLostAndUnexpectedTransactions) {
  const TemporaryDirectory folder;
  const std::string path = folder / "ham.db";
  const auto store = MustOpen(path);
  ASSERT_TRUE(store->Commit(Numbered(1)).ok());
  MoveCommits(path, -1);
  EXPECT_TRUE(absl::IsDataLoss(store->Reopen())) << store->Reopen();
  MoveCommits(path, 2);
  EXPECT_TRUE(absl::IsFailedPrecondition(store->Reopen()));
  MoveCommits(path, -1);
  EXPECT_TRUE(store->Reopen().ok());
}

TEST(JobStore, NamesTheDamagedRow) {
  const struct {
    const char* damage;
    const char* table;
    const char* row;
    std::function<absl::Status(JobStore*)> read;
  } cases[] = {
      {"UPDATE workers SET crc = 0", "workers", "w", [](JobStore* s) { return s->Load().status(); }},
      {"UPDATE contents SET row = x'00'", "contents", "j1",
       [](JobStore* s) { return s->GetContent(JobName(1)).status(); }},
      {"UPDATE contents SET crc = crc + 1", "contents", "j1",
       [](JobStore* s) { return s->GetLabels(JobName(1)).status(); }},
      {"UPDATE records SET row = x'' WHERE key & 0xff = 2", "records", "record 2",
       [](JobStore* s) { return s->ReadLog(kJob, 0, 10, kAnyBytes).status(); }},
      {"UPDATE spools SET sequence = sequence + 1", "spools", "rank 0",
       [](JobStore* s) { return s->GetSpool(kJob, 1, 0).status(); }},
      {"UPDATE requests SET row = x'00'", "requests", "r1",
       [](JobStore* s) { return s->GetRequest("admin", "r1", absl::UnixEpoch()).status(); }},
  };
  for (const auto& item : cases) {
    SCOPED_TRACE(item.damage);
    const TemporaryDirectory folder;
    const auto store = MustOpen(folder / "ham.db");
    ASSERT_TRUE(store->Commit(Numbered(1)).ok());
    ASSERT_TRUE(item.read(store.get()).ok());
    ExecuteOn(folder / "ham.db", item.damage);
    const absl::Status status = item.read(store.get());
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    for (const std::string& part : {folder / "ham.db", std::string(item.table), std::string(item.row)}) {
      EXPECT_NE(status.message().find(part), absl::string_view::npos) << part << ": " << status;
    }
  }
}

TEST(JobStore, ADamagedRowOfAJobTakesNoOtherDown) {
  for (const char* damage :
       {"UPDATE jobs SET row = x'0a0178' WHERE id = 2", "UPDATE jobs SET crc = crc + 1 WHERE id = 2",
        "UPDATE jobs SET row = (SELECT row FROM jobs WHERE id = 1) WHERE id = 2"}) {
    SCOPED_TRACE(damage);
    const TemporaryDirectory folder;
    auto store = MustOpen(folder / "ham.db");
    for (int n = 1; n <= 2; ++n) ASSERT_TRUE(store->Commit(Numbered(n)).ok());
    store = nullptr;
    ExecuteOn(folder / "ham.db", damage);
    store = MustOpen(folder / "ham.db");
    const absl::StatusOr<Store::Contents> contents = store->Load();
    ASSERT_TRUE(contents.ok()) << contents.status();
    ASSERT_EQ(contents->damaged_jobs.size(), 1u);
    EXPECT_NE(contents->damaged_jobs[0].find("row projects/default/jobs/j1 of table jobs"), std::string::npos);
    std::map<std::string, JobRow> rows;
    std::multiset<int64_t> indexes;
    for (const JobRow& row : contents->jobs) {
      rows[row.name] = row;
      indexes.insert(row.submit_index);
    }
    ASSERT_EQ(rows.size(), 3u);
    EXPECT_EQ(rows[kJob].attempt, 2);
    EXPECT_EQ(rows[JobName(2)].attempt, 2);
    EXPECT_EQ(rows[JobName(1)].state, ham::v1::Job::FAILED);
    EXPECT_EQ(rows[JobName(1)].state_reason, "ROW_DAMAGED");
    EXPECT_EQ(indexes.count(rows[JobName(1)].submit_index), 1u);
    EXPECT_GT(rows[JobName(1)].submit_index, 0);
    EXPECT_TRUE(store->Commit(Numbered(3)).ok());
  }
}

TEST(JobStore, OpenNoticesADamagedMetaRow) {
  for (const char* damage : {"UPDATE meta SET term = 7", "DELETE FROM meta", "UPDATE meta SET cluster_id = 'x'"}) {
    const TemporaryDirectory folder;
    MustOpen(folder / "ham.db");
    ExecuteOn(folder / "ham.db", damage);
    EXPECT_TRUE(absl::IsDataLoss(JobStore::Open(folder / "ham.db").status())) << damage;
  }
}

// A wrong byte anywhere in the file gives an error or hides a row; it never changes what is read.
TEST(JobStore, ADamagedFileNeverGivesAWrongRow) {
  constexpr uint32_t kSeed = 20;
  const TemporaryDirectory folder;
  const std::string path = folder / "ham.db";
  constexpr int kTransactions = 5;
  {
    const auto store = MustOpen(path);
    for (int n = 1; n <= kTransactions; ++n) ASSERT_TRUE(store->Commit(Numbered(n)).ok());
  }
  const std::string good = ReadTestFile(path);
  std::mt19937_64 random(kSeed);
  int refused = 0;
  for (int round = 0; round < 1000; ++round) {
    std::string bytes = good;
    const size_t at = random() % bytes.size();
    if (bytes[at] == 0) continue;  // mostly unused
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
    SCOPED_TRACE(absl::StrCat("seed ", kSeed, ", byte ", at));
    const TemporaryDirectory copy;
    WriteTestFile(copy / "ham.db", bytes);
    const auto store = JobStore::Open(copy / "ham.db");
    if (!store.ok()) {
      ++refused;
      continue;
    }
    const absl::StatusOr<Store::Contents> contents = (*store)->Load();
    refused += contents.ok() && contents->damaged_jobs.empty() ? 0 : 1;
    for (const JobRow& row : contents.ok() ? contents->jobs : std::vector<JobRow>()) {
      if (row.state_reason == "ROW_DAMAGED") continue;
      EXPECT_TRUE(row.name == kJob ? row.attempt == kTransactions : row.name == JobName(row.attempt)) << row.name;
    }
    const auto log = (*store)->ReadLog(kJob, 0, 100, kAnyBytes);
    refused += log.ok() ? 0 : 1;
    for (size_t i = 0; log.ok() && i < log->size(); ++i) {
      EXPECT_EQ(log->at(i)->log().text(), LogRecord(static_cast<int64_t>(i) + 1)->log().text());
    }
    const absl::StatusOr<JobContent> content = (*store)->GetContent(JobName(2));
    if (content.ok()) {
      EXPECT_EQ(content->labels.at("n"), "2");
    }
    const absl::StatusOr<int64_t> spool = (*store)->GetSpool(kJob, 1, 0);
    if (spool.ok()) {
      EXPECT_TRUE(*spool == kTransactions || *spool == 0);
    }
  }
  EXPECT_GT(refused, 20);
}

TEST(JobStore, RefusesFilesThatAreNotItsOwn) {
  const TemporaryDirectory folder;
  MustOpen(folder / "ham.db");
  ExecuteOn(folder / "ham.db", "PRAGMA user_version = 99");
  const std::string before = ReadTestFile(folder / "ham.db");
  const absl::Status newer = JobStore::Open(folder / "ham.db").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(newer)) << newer;
  EXPECT_NE(newer.message().find("99"), absl::string_view::npos) << newer;
  EXPECT_EQ(ReadTestFile(folder / "ham.db"), before);
  ExecuteOn(folder / "other.db", "CREATE TABLE other (x)");
  EXPECT_TRUE(absl::IsFailedPrecondition(JobStore::Open(folder / "other.db").status()));
  WriteTestFile(folder / "text.db", std::string(4096, 'x'));
  EXPECT_TRUE(absl::IsDataLoss(JobStore::Open(folder / "text.db").status()));
  const absl::Status missing = JobStore::Open(folder / "missing/ham.db").status();
  EXPECT_TRUE(absl::IsUnavailable(missing)) << missing;
}

TEST(JobStore, ReadsSeeWholeTransactionsWhileOthersAreCommitted) {
  const TemporaryDirectory folder;
  const auto store = MustOpen(folder / "ham.db");
  constexpr int kTransactions = 150;
  std::atomic<int> committed = 0;
  std::vector<std::thread> readers;
  for (int reader = 0; reader < 3; ++reader) {
    readers.emplace_back([&] {
      int last = 0;
      while (last < kTransactions && !::testing::Test::HasFailure()) {
        const int before = committed;
        const auto contents = store->Load();
        ASSERT_TRUE(contents.ok()) << contents.status();
        int held = 0;
        for (const JobRow& row : contents->jobs) held = std::max(held, row.attempt);
        ASSERT_GE(held, std::max(before, last));
        ASSERT_EQ(contents->jobs.size(), held == 0 ? 0u : static_cast<size_t>(held) + 1);
        if (held > 0) {
          ASSERT_EQ(contents->last_sequence.at(kJob), held * kRecords);
          const auto log = store->ReadLog(kJob, 0, held * kRecords, kAnyBytes);
          ASSERT_TRUE(log.ok()) << log.status();
          ASSERT_EQ(log->size(), static_cast<size_t>(held) * kRecords);
          ASSERT_GE(*store->GetSpool(kJob, 1, 0), held);
        }
        last = held;
      }
    });
  }
  for (int n = 1; n <= kTransactions; ++n) {
    EXPECT_TRUE(store->Commit(Numbered(n)).ok());
    committed = n;
    if (n % 50 == 0) {
      EXPECT_TRUE(store->Reopen().ok());
    }
  }
  for (std::thread& reader : readers) reader.join();
}

TEST(JobStore, WritesTwentyThousandRecordsASecondInOneTransaction) {
  const TemporaryDirectory folder;
  const auto store = MustOpen(folder / "ham.db");
  constexpr int kCount = 20000;
  double best = 0;
  for (int round = 0; round < 3; ++round) {
    Transaction transaction;
    transaction.jobs[kJob] = NamedRow(kJob, 1);
    for (int i = 1; i <= kCount; ++i) transaction.records[kJob].push_back(LogRecord(round * kCount + i, 300));
    const auto begin = std::chrono::steady_clock::now();
    ASSERT_TRUE(store->Commit(transaction).ok());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    best = std::max(best, kCount / seconds);
  }
  RecordProperty("records_per_second", static_cast<int>(best));
  EXPECT_GT(best, 20000);
}

}  // namespace
}  // namespace ham::server

#include "worker/agent/spool.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/support/temporary_directory.h"

namespace ham::agent {
namespace {

namespace fs = std::filesystem;
using ham::testing::ReadTestFile;
using ham::testing::TemporaryDirectory;
using ham::testing::WriteTestFile;
using ham::v1::SpooledRecord;

constexpr size_t kAll = std::numeric_limits<size_t>::max();

SpooledRecord Metric(int64_t iteration) {
  SpooledRecord record;
  record.mutable_metric()->set_iteration(iteration);
  record.mutable_metric()->mutable_summary();
  return record;
}

SpooledRecord Finding(const std::string& inputs) {
  SpooledRecord record;
  record.mutable_finding()->set_inputs(inputs);
  return record;
}

SpooledRecord Log(const std::string& text) {
  SpooledRecord record;
  record.set_log_text(text);
  return record;
}

std::vector<SpooledRecord> Pending(Spool* spool, size_t bytes = kAll) {
  absl::StatusOr<std::vector<SpooledRecord>> records = spool->Pending(bytes);
  EXPECT_TRUE(records.ok()) << records.status();
  return records.ok() ? *records : std::vector<SpooledRecord>();
}

std::vector<int64_t> Sequences(Spool* spool, size_t bytes = kAll) {
  std::vector<int64_t> sequences;
  for (const SpooledRecord& record : Pending(spool, bytes)) sequences.push_back(record.spool_sequence());
  return sequences;
}

class SpoolTest : public ::testing::Test {
 protected:
  std::unique_ptr<Spool> Open(size_t limit, size_t segment_bytes) {
    absl::StatusOr<std::unique_ptr<Spool>> spool = Spool::Open(Folder(), limit, segment_bytes);
    EXPECT_TRUE(spool.ok()) << spool.status();
    return *std::move(spool);
  }
  std::string Folder() const { return directory_ / "spool"; }
  size_t Files() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(Folder()), fs::directory_iterator()));
  }
  uint64_t BytesOnDisk() const {
    uint64_t bytes = 0;
    for (const auto& entry : fs::directory_iterator(Folder())) bytes += entry.file_size();
    return bytes;
  }

  const TemporaryDirectory directory_;
};

TEST_F(SpoolTest, KeepsOrderAndNumbersFromOne) {
  const auto spool = Open(1 << 20, 64);  // several segments
  EXPECT_TRUE(spool->empty());
  EXPECT_EQ(Sequences(spool.get()), std::vector<int64_t>{});
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(spool->Append(i % 2 == 0 ? Metric(i) : Log(absl::StrCat("line ", i))).ok());
  EXPECT_FALSE(spool->empty());
  const std::vector<SpooledRecord> records = Pending(spool.get());
  ASSERT_EQ(records.size(), 10);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(records[i].spool_sequence(), i + 1);
    if (i % 2 == 0) {
      EXPECT_EQ(records[i].metric().iteration(), i);
    } else {
      EXPECT_EQ(records[i].log_text(), absl::StrCat("line ", i));
    }
  }
  EXPECT_GT(Files(), 1);
}

TEST_F(SpoolTest, GivesAtLeastOneRecordAndNoMoreThanAskedFor) {
  const auto spool = Open(1 << 20, 1 << 20);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(spool->Append(Log(std::string(100, 'x'))).ok());
  EXPECT_EQ(Sequences(spool.get(), 0), (std::vector<int64_t>{1}));
  EXPECT_EQ(Sequences(spool.get(), 250), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(Sequences(spool.get(), 1000), (std::vector<int64_t>{1, 2, 3, 4}));
}

TEST_F(SpoolTest, ForgetsWhatIsAcknowledged) {
  const auto spool = Open(1 << 20, 64);
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(spool->Append(Metric(i)).ok());
  const size_t files = Files();
  spool->Acknowledge(4);
  EXPECT_EQ(Sequences(spool.get()), (std::vector<int64_t>{5, 6, 7, 8, 9, 10}));
  spool->Acknowledge(2);  // an old one, late
  EXPECT_EQ(Sequences(spool.get()).front(), 5);
  spool->Acknowledge(10);
  EXPECT_TRUE(spool->empty());
  EXPECT_LT(Files(), files);
  EXPECT_EQ(Sequences(spool.get()), std::vector<int64_t>{});
  ASSERT_TRUE(spool->Append(Metric(11)).ok());
  EXPECT_FALSE(spool->empty());
  EXPECT_EQ(Sequences(spool.get()), (std::vector<int64_t>{11}));
}

TEST_F(SpoolTest, AnAcknowledgementOfTheFutureCoversOnlyWhatThereIs) {
  const auto spool = Open(1 << 20, 64);
  ASSERT_TRUE(spool->Append(Metric(0)).ok());
  spool->Acknowledge(std::numeric_limits<int64_t>::max());
  EXPECT_TRUE(spool->empty());
  ASSERT_TRUE(spool->Append(Metric(1)).ok());
  EXPECT_EQ(Sequences(spool.get()), (std::vector<int64_t>{2}));
}

TEST_F(SpoolTest, OldestLogTextGivesWayWithAMarkAndMetricsNever) {
  const auto spool = Open(4000, 500);
  for (int i = 0; i < 40; ++i) {
    ASSERT_TRUE(spool->Append(Log(std::string(200, 'x'))).ok());
    ASSERT_TRUE(spool->Append(Metric(i)).ok());
    EXPECT_LE(spool->bytes(), 4000);
  }
  int metrics = 0;
  size_t kept = 0;
  int64_t last = 0;
  bool seen_text = false;
  size_t marks = 0;
  for (const SpooledRecord& record : Pending(spool.get())) {
    EXPECT_GT(record.spool_sequence(), last);
    last = record.spool_sequence();
    if (record.has_metric()) {
      EXPECT_EQ(record.metric().iteration(), metrics++);
    } else if (record.log_text() == std::string(200, 'x')) {
      ++kept;
      seen_text = true;
    } else {
      EXPECT_EQ(record.log_text(), "[200 bytes of log text were dropped here: the spool was full]\n");
      EXPECT_FALSE(seen_text) << "newer text went before older";
      ++marks;
    }
  }
  EXPECT_EQ(metrics, 40);
  EXPECT_EQ(last, 80);
  EXPECT_GT(kept, 0);
  EXPECT_EQ(kept + marks, 40);
}

TEST_F(SpoolTest, OneMarkStandsForARowOfLines) {
  const auto spool = Open(2000, 100000);  // one segment: it is the newest, and still gives way
  for (int i = 0; i < 9; ++i) ASSERT_TRUE(spool->Append(Log(std::string(200, 'x'))).ok());
  ASSERT_TRUE(spool->Append(Log(std::string(200, 'y'))).ok());
  const std::vector<SpooledRecord> records = Pending(spool.get());
  ASSERT_EQ(records.size(), 2);
  EXPECT_EQ(records[0].log_text(), "[1800 bytes of log text were dropped here: the spool was full]\n");
  EXPECT_EQ(records[0].spool_sequence(), 9);
  EXPECT_EQ(records[1].log_text(), std::string(200, 'y'));
  EXPECT_EQ(records[1].spool_sequence(), 10);
}

TEST_F(SpoolTest, AcknowledgedTextIsNotReportedAsDropped) {
  const auto spool = Open(2000, 100000);
  for (int i = 0; i < 9; ++i) ASSERT_TRUE(spool->Append(Log(std::string(200, 'x'))).ok());
  spool->Acknowledge(5);
  ASSERT_TRUE(spool->Append(Log(std::string(200, 'y'))).ok());
  const std::vector<SpooledRecord> records = Pending(spool.get());
  ASSERT_EQ(records.size(), 2);
  EXPECT_EQ(records[0].log_text(), "[800 bytes of log text were dropped here: the spool was full]\n");
}

TEST_F(SpoolTest, MetricsAloneMayPassTheLimit) {
  const auto spool = Open(200, 50);
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(spool->Append(Metric(i)).ok());
  EXPECT_EQ(Sequences(spool.get()).size(), 100);
  EXPECT_GT(spool->bytes(), 200);
}

TEST_F(SpoolTest, FindingsNeverGiveWayToo) {
  const auto spool = Open(2000, 500);
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(spool->Append(Log(std::string(200, 'x'))).ok());
    ASSERT_TRUE(spool->Append(Finding(absl::StrCat(i, std::string(200, 'y')))).ok());
  }
  int findings = 0;
  for (const SpooledRecord& record : Pending(spool.get())) {
    if (record.has_finding()) {
      EXPECT_EQ(record.finding().inputs(), absl::StrCat(findings++, std::string(200, 'y')));
    } else {
      EXPECT_NE(record.log_text(), std::string(200, 'x'));
    }
  }
  EXPECT_EQ(findings, 20);
}

// As a report takes them: of the longest finding no more than that one.
TEST_F(SpoolTest, AFindingAboveTheBatchGoesAlone) {
  const auto spool = Open(64 << 20, 4 << 20);
  for (const size_t bytes : {100, 3 << 20, 3 << 20, 100}) {
    ASSERT_TRUE(spool->Append(Finding(std::string(bytes, 'x'))).ok());
  }
  for (const std::vector<int64_t>& batch : std::vector<std::vector<int64_t>>{{1}, {2}, {3}, {4}}) {
    EXPECT_EQ(Sequences(spool.get(), 1 << 20), batch);
    spool->Acknowledge(batch.back());
  }
  EXPECT_TRUE(spool->empty());
}

TEST_F(SpoolTest, OneRecordAboveTheLimitIsKept) {
  const auto spool = Open(100, 50);
  ASSERT_TRUE(spool->Append(Log(std::string(1000, 'x'))).ok());
  ASSERT_TRUE(spool->Append(Metric(1)).ok());
  EXPECT_EQ(Sequences(spool.get()), (std::vector<int64_t>{1, 2}));
}

// A segment cut at each length, and with each byte changed: the records before the damage, or DataLoss.
TEST_F(SpoolTest, DamageIsDataLossAndNoCrash) {
  const auto spool = Open(1 << 20, 1 << 20);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(spool->Append(Log(absl::StrCat("line ", i))).ok());
  const std::string path = Folder() + "/1";
  const std::string whole = ReadTestFile(path);
  for (size_t size = 0; size < whole.size(); ++size) {
    WriteTestFile(path, whole.substr(0, size));
    const auto records = spool->Pending(kAll);
    EXPECT_TRUE(absl::IsDataLoss(records.status())) << size << " " << records.status();
    EXPECT_NE(records.status().message().find(path), std::string::npos);
  }
  for (size_t at = 0; at < whole.size(); ++at) {
    for (const int change : {1, 0x80, 0xFF}) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ change);
      WriteTestFile(path, bytes);
      const auto records = spool->Pending(kAll);
      EXPECT_TRUE(records.ok() || absl::IsDataLoss(records.status())) << at << " " << records.status();
    }
  }
  WriteTestFile(path, whole);
  EXPECT_EQ(Sequences(spool.get()).size(), 3);
}

TEST_F(SpoolTest, GoesOnBehindWhatWasLost) {
  const auto spool = Open(1 << 20, 1 << 20);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(spool->Append(Metric(i)).ok());
  const std::string path = Folder() + "/1";
  std::string bytes = ReadTestFile(path);
  bytes[3] = '\x7F';  // the first length
  WriteTestFile(path, bytes);
  EXPECT_TRUE(absl::IsDataLoss(spool->Pending(kAll).status()));
  spool->Acknowledge(std::numeric_limits<int64_t>::max());  // what the reader does then
  EXPECT_TRUE(spool->empty());
  ASSERT_TRUE(spool->Append(Metric(3)).ok());
  EXPECT_EQ(Sequences(spool.get()), (std::vector<int64_t>{4}));
}

TEST_F(SpoolTest, MakesItsOwnFolderOnly) {
  fs::create_directory(Folder());
  EXPECT_TRUE(absl::IsUnavailable(Spool::Open(Folder(), 1000).status()));
  EXPECT_TRUE(absl::IsUnavailable(Spool::Open(Folder() + "/a/b", 1000).status()));
}

// In a child, since the limit holds for the whole process.
TEST_F(SpoolTest, AFailedWriteLeavesTheSpoolAsItWas) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const auto spool = Open(1 << 20, 1 << 20);
    bool good = spool->Append(Metric(0)).ok();
    const rlimit limit = {200, 200};
    good = good && ::setrlimit(RLIMIT_FSIZE, &limit) == 0;
    good = good && absl::IsUnavailable(spool->Append(Log(std::string(300, 'x'))));  // a part of it was written
    good = good && spool->bytes() < 100 && Sequences(spool.get()) == std::vector<int64_t>{1};
    good = good && spool->Append(Metric(1)).ok() && Sequences(spool.get()) == std::vector<int64_t>({1, 2});
    spool->Acknowledge(2);
    ::_exit(good && spool->empty() ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// In a child with a mount of its own.
TEST_F(SpoolTest, AFullDiskIsResourceExhaustedAndPassesWithRoom) {
  constexpr int kNoMount = 77;
  const pid_t child = ::fork();
  if (child == 0) {
    if (::unshare(CLONE_NEWNS) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) ::_exit(kNoMount);
    if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", directory_.path().c_str(), "tmpfs", 0, "size=64k") != 0) {
      ::_exit(kNoMount);
    }
    const auto spool = Open(1 << 30, 8 << 10);
    int64_t written = 0;
    absl::Status status;
    while (written < 1000 && (status = spool->Append(Log(std::string(3000, 'x')))).ok()) ++written;
    bool good = absl::IsResourceExhausted(status) && written > 0 &&
                Sequences(spool.get()).size() == static_cast<size_t>(written);
    spool->Acknowledge(written);
    good = good && spool->empty() && spool->Append(Metric(1)).ok();
    good = good && Sequences(spool.get()) == std::vector<int64_t>{written + 1};
    ::_exit(good ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  if (WIFEXITED(status) && WEXITSTATUS(status) == kNoMount) {
    GTEST_SKIP() << "no file system may be mounted here, not even in a user namespace";
  }
  EXPECT_EQ(status, 0);
}

TEST_F(SpoolTest, AWriterAndAReaderMeetNoGap) {
  const auto spool = Open(1 << 20, 256);
  constexpr int kRecords = 2000;
  std::thread writer([&] {
    for (int i = 0; i < kRecords; ++i) EXPECT_TRUE(spool->Append(Metric(i)).ok());
  });
  for (int64_t next = 1; next <= kRecords;) {
    for (const SpooledRecord& record : Pending(spool.get(), 500)) {
      ASSERT_EQ(record.spool_sequence(), next);
      ASSERT_EQ(record.metric().iteration(), next - 1);
      ++next;
    }
    spool->Acknowledge(next - 1);
  }
  writer.join();
  EXPECT_TRUE(spool->empty());
  EXPECT_LE(BytesOnDisk(), 512);
}

// Against a list: what was appended and not acknowledged is there, log text perhaps as a mark.
TEST_F(SpoolTest, RandomUseLosesNoMetric) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937_64 random(seed);
  const auto spool = Open(5000, 300);
  std::vector<int64_t> metrics;  // sequences not acknowledged
  int64_t appended = 0;
  for (int i = 0; i < 3000; ++i) {
    const uint64_t what = random() % 10;
    if (what < 4) {
      ASSERT_TRUE(spool->Append(Metric(++appended)).ok());
      metrics.push_back(appended);
    } else if (what < 9) {
      ASSERT_TRUE(spool->Append(Log(std::string(random() % 400, 'x'))).ok());
      ++appended;
    } else if (appended > 0) {
      const int64_t upto = static_cast<int64_t>(random() % static_cast<uint64_t>(appended + 1));
      spool->Acknowledge(upto);
      metrics.erase(metrics.begin(), std::upper_bound(metrics.begin(), metrics.end(), upto));
      std::vector<int64_t> found;
      int64_t last = 0;
      for (const SpooledRecord& record : Pending(spool.get())) {
        ASSERT_GT(record.spool_sequence(), last);
        last = record.spool_sequence();
        if (record.has_metric()) found.push_back(last);
      }
      ASSERT_EQ(found, metrics);
      ASSERT_EQ(spool->empty(), last == 0);
    }
  }
}

}  // namespace
}  // namespace ham::agent

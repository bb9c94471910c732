#include "server/metric_stream.h"

#include <gtest/gtest.h>

#include "absl/synchronization/mutex.h"

namespace ham::server {
namespace {

constexpr char kJob[] = "projects/default/jobs/j1";
constexpr absl::Duration kBound = absl::Seconds(20);

RecordPtr Record(int64_t sequence) {
  auto record = std::make_shared<ham::v1::JobRecord>();
  record->set_sequence(sequence);
  record->mutable_event()->set_message("m");
  return record;
}

// Takes each response at once, unless held.
class Reader : public WatchSink {
 public:
  Reader(WatchHub* hub, uint64_t id, bool takes) : hub_(hub), id_(id), takes_(takes) {}
  void Send(ham::v1::WatchJobResponse response) override {
    {
      absl::MutexLock lock(&mutex_);
      token_ = response.token();
      for (const ham::v1::JobRecord& record : response.records()) sequences_.push_back(record.sequence());
    }
    if (takes_) hub_->Written(id_, true);
  }
  void End(const absl::Status& status) override {
    absl::MutexLock lock(&mutex_);
    end_ = status;
  }
  // Waits for the end of the watch.
  absl::Status WaitForEnd() {
    absl::MutexLock lock(&mutex_);
    const auto ended = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return end_.has_value(); };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&ended), kBound)) return absl::DeadlineExceededError("no end");
    return *end_;
  }
  bool WaitForRecords(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return sequences_.size() >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), kBound);
  }
  std::vector<int64_t> sequences() {
    absl::MutexLock lock(&mutex_);
    return sequences_;
  }
  std::string token() {
    absl::MutexLock lock(&mutex_);
    return token_;
  }

 private:
  WatchHub* const hub_;
  const uint64_t id_;
  const bool takes_;
  absl::Mutex mutex_;
  std::vector<int64_t> sequences_ ABSL_GUARDED_BY(mutex_);
  std::string token_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
};

class WatchHubTest : public ::testing::Test {
 protected:
  // A hub over a log of `stored` records.
  void Start(const Limits& limits, int64_t stored) {
    stored_ = stored;
    job_.set_name(kJob);
    job_.set_state(ham::v1::Job::RUNNING);
    hub_.emplace(limits, &clock_, WatchTokens("e"),
                 [this, limits](const std::string&, int64_t after, int limit, size_t bytes) {
                   EXPECT_EQ(bytes, limits.watch_response_bytes);
                   std::vector<RecordPtr> page;
                   for (int64_t i = after + 1; i <= stored_ && i <= after + limit; ++i) page.push_back(Record(i));
                   return page;
                 });
  }
  std::shared_ptr<Reader> Watch(const WatchRequest& request, bool takes = true) {
    const uint64_t id = hub_->NewId();
    auto reader = std::make_shared<Reader>(&*hub_, id, takes);
    const absl::Status status = hub_->Add(id, job_, stored_, request, reader);
    EXPECT_TRUE(status.ok()) << status.message();
    return reader;
  }
  void PublishState(ham::v1::Job::State state, const std::vector<RecordPtr>& records) {
    JobRow row;
    row.name = kJob;
    row.state = state;
    row.create_time = absl::UnixEpoch();
    hub_->Publish(kJob, records, &row);
  }

  SystemClock clock_;
  ham::v1::Job job_;
  int64_t stored_ = 0;
  std::optional<WatchHub> hub_;
};

std::vector<int64_t> UpTo(int64_t last, int64_t first = 1) {
  std::vector<int64_t> all;
  for (int64_t i = first; i <= last; ++i) all.push_back(i);
  return all;
}

TEST_F(WatchHubTest, SendsTheHistoryAndEndsThereUnlessFollowing) {
  Limits limits;
  limits.watch_page_records = 7;
  Start(limits, 100);
  const auto reader = Watch({"", {}, /*follow=*/false});
  EXPECT_TRUE(reader->WaitForEnd().ok());
  EXPECT_EQ(reader->sequences(), UpTo(100));
  EXPECT_EQ(reader->token(), "e.j1.100");
}

TEST_F(WatchHubTest, FollowsUntilTheJobEnds) {
  Start(Limits(), 2);
  const auto reader = Watch({});
  ASSERT_TRUE(reader->WaitForRecords(2));
  hub_->Publish(kJob, {Record(3), Record(4)}, nullptr);
  ASSERT_TRUE(reader->WaitForRecords(4));
  PublishState(ham::v1::Job::SUCCEEDED, {Record(5)});
  EXPECT_TRUE(reader->WaitForEnd().ok());
  EXPECT_EQ(reader->sequences(), UpTo(5));
  EXPECT_EQ(hub_->watches(), 0u);
}

TEST_F(WatchHubTest, GoesOnAfterTheToken) {
  Start(Limits(), 10);
  const auto reader = Watch({"e.j1.8", {}, false});
  EXPECT_TRUE(reader->WaitForEnd().ok());
  EXPECT_EQ(reader->sequences(), UpTo(10, 9));
}

TEST_F(WatchHubTest, ShowsTheKindsAskedForAndATokenBehindTheRest) {
  Start(Limits(), 10);
  const auto reader = Watch({"", {ham::v1::METRIC}, false});
  EXPECT_TRUE(reader->WaitForEnd().ok());
  EXPECT_TRUE(reader->sequences().empty());
  EXPECT_EQ(reader->token(), "e.j1.10");
}

TEST_F(WatchHubTest, ShowsWhatRanksOfAnEvaluationFound) {
  Start(Limits(), 0);
  const auto reader = Watch({"", {ham::v1::FINDING}, true});
  auto finding = std::make_shared<ham::v1::JobRecord>();
  finding->set_sequence(2);
  finding->mutable_finding()->mutable_checks();
  PublishState(ham::v1::Job::SUCCEEDED, {Record(1), finding, Record(3)});
  EXPECT_TRUE(reader->WaitForEnd().ok());
  EXPECT_EQ(reader->sequences(), std::vector<int64_t>{2});
}

TEST_F(WatchHubTest, RefusesForeignTokensAndTooManyWatches) {
  Limits limits;
  limits.watches = 1;
  Start(limits, 3);
  for (const char* token : {"other.j1.1", "e.j2.1", "e.j1.4", "e.j1.-1", "x", "e.j1.1.1"}) {
    const absl::Status status = hub_->Add(hub_->NewId(), job_, stored_, {token, {}, true}, nullptr);
    EXPECT_TRUE(absl::IsOutOfRange(status)) << token;
  }
  const auto reader = Watch({});
  EXPECT_TRUE(absl::IsResourceExhausted(hub_->Add(hub_->NewId(), job_, stored_, {}, nullptr)));
}

TEST_F(WatchHubTest, EndsAReaderThatTakesNothing) {
  Limits limits;
  limits.watch_stall = absl::Milliseconds(20);
  Start(limits, 3);
  const auto reader = Watch({}, /*takes=*/false);
  ASSERT_TRUE(reader->WaitForRecords(3));
  hub_->Publish(kJob, {Record(4)}, nullptr);
  EXPECT_TRUE(absl::IsResourceExhausted(reader->WaitForEnd()));
}

TEST_F(WatchHubTest, ShutdownEndsAllWithUnavailable) {
  Start(Limits(), 3);
  const auto one = Watch({});
  const auto two = Watch({}, /*takes=*/false);
  hub_->Shutdown();
  EXPECT_TRUE(absl::IsUnavailable(one->WaitForEnd()));
  EXPECT_TRUE(absl::IsUnavailable(two->WaitForEnd()));
  EXPECT_TRUE(absl::IsUnavailable(hub_->Add(hub_->NewId(), job_, stored_, {}, nullptr)));
}

}  // namespace
}  // namespace ham::server

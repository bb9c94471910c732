#include "server/job_pictures.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace ham::server {
namespace {

using ham::v1::Job;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr absl::Duration kAfterEnd = absl::Minutes(5);

class JobPicturesTest : public ::testing::Test {
 protected:
  static JobRow Row(const std::string& name, int64_t index, Job::State state) {
    JobRow row;
    row.name = "projects/p/jobs/" + name;
    row.submit_index = index;
    row.state = state;
    row.create_time = absl::UnixEpoch();
    return row;
  }
  std::vector<std::string> Names(size_t most = 100) const {
    std::vector<std::string> names;
    for (const auto& picture : pictures_.Newest(most)) names.push_back(picture->face->name.substr(16));
    return names;
  }

  JobPictures pictures_{kAfterEnd};
};

TEST_F(JobPicturesTest, PutsJobsAtWorkFirstAndThoseThatWaitLast) {
  pictures_.Note(Row("queued", 1, Job::QUEUED), absl::Seconds(1));
  pictures_.Note(Row("over", 2, Job::FAILED), absl::Seconds(1));
  pictures_.Note(Row("runs", 3, Job::RUNNING), absl::Seconds(1));
  pictures_.Note(Row("recovering", 4, Job::RECOVERING), absl::Seconds(1));  // without a gang: it waits
  EXPECT_THAT(Names(), ElementsAre("runs", "over", "queued", "recovering"));
  EXPECT_THAT(Names(2), ElementsAre("runs", "over"));
  EXPECT_EQ(pictures_.size(), 4u);
}

TEST_F(JobPicturesTest, AJobGoesFiveMinutesAfterItsEnd) {
  pictures_.Note(Row("a", 1, Job::RUNNING), absl::Seconds(1));
  EXPECT_EQ(pictures_.NextExpiry(), absl::InfiniteDuration());
  pictures_.Note(Row("a", 1, Job::SUCCEEDED), absl::Seconds(10));
  pictures_.Note(Row("a", 1, Job::SUCCEEDED), absl::Seconds(90));  // once more, its slots go
  EXPECT_EQ(pictures_.NextExpiry(), absl::Seconds(10) + kAfterEnd);
  pictures_.Expire(absl::Seconds(9) + kAfterEnd);
  EXPECT_THAT(Names(), ElementsAre("a"));
  pictures_.Expire(absl::Seconds(10) + kAfterEnd);
  EXPECT_THAT(Names(), IsEmpty());
  pictures_.NoteMetrics("projects/p/jobs/a", {});  // too late
  pictures_.NoteSpec("projects/p/jobs/a", {});
  EXPECT_THAT(Names(), IsEmpty());
  EXPECT_THAT(pictures_.WithoutSpec(9), IsEmpty());
}

TEST_F(JobPicturesTest, ARestartTakesNothingFromThatTimeNorAddsToIt) {
  const Now now{absl::Seconds(1000), absl::UnixEpoch() + absl::Hours(10)};
  for (const int minutes : {1, 4, 6}) {
    JobRow row = Row(std::to_string(minutes), minutes, Job::CANCELLED);
    row.end_time = now.wall - absl::Minutes(minutes);
    pictures_.Restore(row, now);
  }
  JobRow damaged = Row("damaged", 9, Job::FAILED);  // its times are not known
  pictures_.Restore(damaged, now);
  JobRow later = Row("later", 8, Job::FAILED);
  later.end_time = now.wall + absl::Hours(1);  // by a clock that was wrong
  pictures_.Restore(later, now);
  EXPECT_THAT(Names(), ElementsAre("1", "4"));
  pictures_.Expire(now.steady + absl::Minutes(1));
  EXPECT_THAT(Names(), ElementsAre("1"));
  pictures_.Expire(now.steady + absl::Minutes(4));
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(JobPicturesTest, KnowsHowLongTheQueueHasWaited) {
  EXPECT_EQ(pictures_.waiting(), 0u);
  pictures_.Note(Row("a", 1, Job::QUEUED), absl::Seconds(10));
  pictures_.Note(Row("b", 2, Job::QUEUED), absl::Seconds(20));
  pictures_.Note(Row("a", 1, Job::QUEUED), absl::Seconds(30));  // for another reason
  EXPECT_EQ(pictures_.waiting(), 2u);
  EXPECT_EQ(pictures_.OldestWait(), absl::Seconds(10));
  pictures_.Note(Row("a", 1, Job::STARTING), absl::Seconds(40));
  EXPECT_EQ(pictures_.OldestWait(), absl::Seconds(20));
  pictures_.Note(Row("a", 1, Job::RECOVERING), absl::Seconds(50));  // it begins to wait anew
  pictures_.Note(Row("b", 2, Job::CANCELLED), absl::Seconds(60));
  EXPECT_EQ(pictures_.waiting(), 1u);
  EXPECT_EQ(pictures_.OldestWait(), absl::Seconds(50));
}

TEST_F(JobPicturesTest, AWaitGoesOnOverARestartFromTheSubmission) {
  const Now now{absl::Seconds(1000), absl::UnixEpoch() + absl::Hours(10)};
  JobRow again = Row("again", 1, Job::QUEUED);
  again.attempt = 2;  // since when it waits is not kept
  pictures_.Restore(again, now);
  EXPECT_EQ(pictures_.OldestWait(), now.steady);
  pictures_.Restore(Row("first", 2, Job::QUEUED), now);
  EXPECT_EQ(pictures_.OldestWait(), now.steady - absl::Hours(10));
}

TEST_F(JobPicturesTest, ASnapshotKeepsWhatItWasGiven) {
  JobRow row = Row("a", 1, Job::RUNNING);
  pictures_.Note(row, absl::Seconds(1));
  const auto before = pictures_.Newest(1).at(0);
  ham::v1::MetricPoint point;
  point.set_iteration(7);
  pictures_.NoteMetrics(row.name, point);
  const auto between = pictures_.Newest(1).at(0);
  point.set_iteration(8);
  pictures_.NoteMetrics(row.name, point);
  ham::v1::JobSpec spec;
  spec.mutable_train()->mutable_method()->set_name("ham");
  pictures_.NoteSpec(row.name, spec);
  row.attempt = 2;
  row.checkpoint.emplace().set_iteration(5);
  pictures_.Note(row, absl::Seconds(2));
  EXPECT_EQ(before->metrics, nullptr);
  EXPECT_EQ(between->metrics->iteration, 7);
  EXPECT_EQ(between->face->method, "");
  const auto after = pictures_.Newest(1).at(0);
  EXPECT_EQ(after->metrics->iteration, 8);
  EXPECT_EQ(after->face->method, "ham");
  EXPECT_EQ(after->face->project, "p");
  EXPECT_EQ(after->attempt, 2);
  EXPECT_EQ(after->checkpoint_iteration, 5);
  row.checkpoint.reset();  // it was damaged
  pictures_.Note(row, absl::Seconds(3));
  EXPECT_EQ(pictures_.Newest(1).at(0)->checkpoint_iteration, std::nullopt);
}

TEST_F(JobPicturesTest, AsksForSpecsOfWhatRunsFirst) {
  pictures_.Note(Row("queued", 1, Job::QUEUED), absl::Seconds(1));
  pictures_.Note(Row("starts", 2, Job::QUEUED), absl::Seconds(1));
  pictures_.Note(Row("starts", 2, Job::STARTING), absl::Seconds(2));
  EXPECT_THAT(pictures_.WithoutSpec(1), ElementsAre("projects/p/jobs/starts"));
  pictures_.GiveUpSpec("projects/p/jobs/starts");
  EXPECT_THAT(pictures_.WithoutSpec(9), ElementsAre("projects/p/jobs/queued"));
  ham::v1::JobSpec spec;
  spec.mutable_evaluate()->mutable_model()->set_name("wrn-28-10");
  pictures_.NoteSpec("projects/p/jobs/queued", spec);
  EXPECT_THAT(pictures_.WithoutSpec(9), IsEmpty());
  EXPECT_EQ(pictures_.Newest(9).at(1)->face->model, "wrn-28-10");
}

}  // namespace
}  // namespace ham::server

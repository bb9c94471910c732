// Evaluation jobs by hamctl as a program, against a scripted coordinator.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "proto/evaluation/record_file.h"
#include "proto/rpc_status.h"
#include "proto/sha256.h"
#include "proto/strict_json.h"
#include "tests/client/hamctl.h"
#include "tests/client/scripted_coordinator.h"
#include "tests/support/made_record.h"
#include "tests/support/temporary_directory.h"

namespace ham {
namespace {

using testing::Done;
using ::testing::ElementsAre;
using testing::Hamctl;
using ::testing::HasSubstr;

class HamctlEvaluationJobTest : public ::testing::Test {
 protected:
  HamctlEvaluationJobTest() {
    testing::WriteTestFile(config_, ConnectionConfigToJson(testing::ConfigOf({server_.endpoint()})));
    testing::WriteTestFile(weights_, "the weights");
    testing::WriteTestFile(spec_, "evaluate: {data: {name: svhn}}");
    server_.upload = [this](auto* reader) {
      uploaded_ = testing::ReceiveUpload(reader);
      return grpc::Status::OK;
    };
    server_.create_job = [this](const ham::v1::CreateJobRequest& request, ham::v1::Job* job) {
      created_ = request;
      job->set_name("projects/default/jobs/j1");
      return grpc::Status::OK;
    };
  }

  Done Run(const std::string& arguments) { return Hamctl(absl::StrCat("--config ", config_, " ", arguments)); }

  const testing::TemporaryDirectory directory_;
  const std::string config_ = directory_ / "config.json", weights_ = directory_ / "w", spec_ = directory_ / "e.yaml",
                    record_ = directory_ / "r.json";
  testing::ScriptedCoordinator server_;
  testing::Uploaded uploaded_;
  ham::v1::CreateJobRequest created_;
};

TEST_F(HamctlEvaluationJobTest, SubmitSendsTheWeightsAndNamesThem) {
  const Done done = Run(absl::StrCat("submit ", spec_, " --weights ", weights_));
  EXPECT_EQ(done.code, 0) << done.output;
  EXPECT_EQ(uploaded_.text, "the weights");
  EXPECT_EQ(uploaded_.digest, Sha256Hex("the weights"));
  EXPECT_EQ(uploaded_.size, 11);
  EXPECT_EQ(created_.spec().evaluate().weights(), uploaded_.digest);
  EXPECT_EQ(created_.spec().evaluate().data().name(), "svhn");
}

TEST_F(HamctlEvaluationJobTest, AJobToEvaluateMayHaveItsShortName) {
  EXPECT_EQ(Run(absl::StrCat("submit ", spec_, " --set evaluate.job=j7")).code, 0);
  EXPECT_EQ(created_.spec().evaluate().job(), "projects/default/jobs/j7");
}

TEST_F(HamctlEvaluationJobTest, WeightsThatHaveNoPlaceAreRefusedBeforeTheyAreSent) {
  const auto refused = [&](const std::string& arguments, const std::string& sentence) {
    const Done done = Run("submit " + arguments);
    EXPECT_EQ(done.code, 2) << done.output;
    EXPECT_THAT(done.output, HasSubstr(sentence));
  };
  const std::string with_weights = absl::StrCat(" --weights ", weights_);
  const std::string train = directory_ / "t.yaml";
  testing::WriteTestFile(train, "train: {data: {name: svhn}}");
  refused(train + with_weights, "is no evaluation");
  refused(spec_ + with_weights + " --set evaluate.job=j1", "leave out one of them");
  refused(absl::StrCat(spec_, with_weights, " --set evaluate.weights=", std::string(64, 'a')), "of another file");
  refused(absl::StrCat(spec_, " --weights ", weights_, "2"), "cannot read --weights");
  EXPECT_EQ(server_.calls, 0);
  EXPECT_EQ(
      Run(absl::StrCat("submit ", spec_, with_weights, " --set evaluate.weights=", Sha256Hex("the weights"))).code, 0);
}

TEST_F(HamctlEvaluationJobTest, ARecordIsCheckedSavedAndShown) {
  const SigningKey key = SigningKey::LoadOrCreate(directory_ / "key.pem").value();
  const std::string file = SignRecordFile(UnsignedRecordFile(testing::MadeRecord()), key).value();
  server_.record = [&](const std::string& job, auto* writer) {
    if (job != "projects/default/jobs/j1") return grpc::Status(grpc::StatusCode::NOT_FOUND, "no such job");
    ham::v1::GetEvaluationRecordResponse response;
    response.set_data(file);
    writer->Write(response);
    return grpc::Status::OK;
  };
  const std::string get = absl::StrCat("eval get j1 --record ", record_);
  EXPECT_EQ(Run(get + " --signed-by other").code, 1);
  EXPECT_FALSE(std::filesystem::exists(record_));
  const Done done = Run(get);
  EXPECT_EQ(done.code, 0) << done.output;
  EXPECT_THAT(done.output, HasSubstr("robust accuracy                50.0 %"));
  EXPECT_THAT(done.output, HasSubstr(Base64Encode(key.public_key())));
  EXPECT_TRUE(testing::ReadTestFile(record_) == file);

  const int calls = server_.calls;
  const Done again = Run(get);
  EXPECT_EQ(again.code, 2) << again.output;
  EXPECT_THAT(again.output, HasSubstr("is left as it is"));
  EXPECT_EQ(server_.calls, calls);
  EXPECT_EQ(Run(absl::StrCat("eval get j2 --record ", record_, "2")).code, 5);
  EXPECT_EQ(Run(absl::StrCat("eval get j1 --record ", directory_ / "none/r.json")).code, 1);
}

TEST_F(HamctlEvaluationJobTest, ADamagedRecordIsNotSaved) {
  server_.record = [](const std::string&, auto* writer) {
    ham::v1::GetEvaluationRecordResponse response;
    response.set_data(UnsignedRecordFile(testing::MadeRecord()).substr(0, 100));
    writer->Write(response);
    return grpc::Status::OK;
  };
  const Done done = Run(absl::StrCat("eval get j1 --record ", record_));
  EXPECT_EQ(done.code, 1);
  EXPECT_THAT(done.output, HasSubstr("the record of j1: "));
  EXPECT_FALSE(std::filesystem::exists(record_));
}

TEST_F(HamctlEvaluationJobTest, GetSaysWhatIsEvaluated) {
  ham::v1::EvaluateSpec* evaluate = server_.job.mutable_spec()->mutable_evaluate();
  evaluate->mutable_model()->set_name("cnn-16-32");
  evaluate->set_weights("0123");
  evaluate->set_job("projects/default/jobs/j0");
  evaluate->mutable_data()->set_name("svhn");
  evaluate->mutable_data()->set_rows(100);
  evaluate->mutable_suite()->set_name("strong");
  evaluate->mutable_suite()->set_norm("linf");
  evaluate->mutable_suite()->set_epsilon(0.25);
  for (const char* name : {"apgd", "square"}) evaluate->mutable_suite()->add_attacks()->set_name(name);
  evaluate->mutable_resources()->set_world_size(4);
  evaluate->mutable_resources()->set_device("cuda");
  evaluate->mutable_retry()->set_max_attempts(3);
  server_.job.set_record_digest("4567");
  const std::string output = Run("get j1").output;
  for (const char* row :
       {"evaluates  cnn-16-32\n", "weights    0123\n", "of job     j0\n", "data       svhn, test, first 100\n",
        "attacks    strong: apgd, square; linf, epsilon 0.25\n", "ranks      at most 4 x cuda\n",
        "attempt    0 (at most 3 may fail)\n", "record     SHA-256 4567\n"}) {
    EXPECT_THAT(output, HasSubstr(row));
  }
}

// A rank that joins late has a number of its own.
TEST_F(HamctlEvaluationJobTest, LogsOfAnyRankCanBeAskedFor) {
  server_.job.mutable_spec()->mutable_evaluate()->mutable_resources()->set_world_size(1);
  server_.watch = [](auto*, const ham::v1::WatchJobRequest&, auto* writer) {
    ham::v1::WatchJobResponse response;
    ham::v1::LogChunk* log = response.add_records()->mutable_log();
    log->set_rank(7);
    log->set_text("hello\n");
    writer->Write(response);
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run("logs j1 --rank 7").output, "hello\n");
  EXPECT_EQ(Run("logs j1").output, "[7] hello\n");
}

TEST_F(HamctlEvaluationJobTest, AWatchEndsWithHowToGetTheRecord) {
  std::vector<int> kinds;
  server_.watch = [&](auto*, const ham::v1::WatchJobRequest& request, auto* writer) {
    kinds.assign(request.kinds().begin(), request.kinds().end());
    ham::v1::WatchJobResponse response;
    response.mutable_job()->set_name(request.name());
    response.mutable_job()->set_state(ham::v1::Job::SUCCEEDED);
    response.mutable_job()->mutable_spec()->mutable_evaluate();
    writer->Write(response);
    return grpc::Status::OK;
  };
  const Done done = Run("watch j1");
  EXPECT_EQ(done.code, 0);
  EXPECT_THAT(done.output, HasSubstr("\nits record: "));
  EXPECT_THAT(done.output, HasSubstr(" eval get j1\n"));
  EXPECT_THAT(kinds, ElementsAre(ham::v1::EVENT, ham::v1::METRIC));
  EXPECT_EQ(Run("watch j1 -o json").code, 0);
  EXPECT_THAT(kinds, ElementsAre(ham::v1::EVENT, ham::v1::METRIC, ham::v1::LOG));
}

}  // namespace
}  // namespace ham

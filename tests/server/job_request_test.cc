#include "server/job_request.h"

#include <gtest/gtest.h>

#include "proto/rpc_status.h"
#include "server/checkpoint_manifest.h"
#include "server/metric_stream.h"

namespace ham::server {
namespace {

constexpr size_t kMostMetadataBytes = 8 << 10;  // what gRPC lets through
const std::string kEuros = [] {                 // 3 bytes a character: a cut at 100 falls within one
  std::string text;
  for (int i = 0; i < 100000; ++i) text += "\xE2\x82\xAC";
  return text;
}();

void ExpectReachesTheClient(const absl::Status& refusal) {
  ASSERT_FALSE(refusal.ok());
  const grpc::Status sent = ToGrpc(refusal);
  EXPECT_LT(sent.error_message().size() + sent.error_details().size() * 4 / 3, kMostMetadataBytes);
  EXPECT_EQ(ReasonOf(FromGrpc(sent)), ReasonOf(refusal));
  EXPECT_EQ(FieldViolationsOf(FromGrpc(sent)).size(), FieldViolationsOf(refusal).size());
}

// A job gets its name here; what a client may write is the project, and labels.
TEST(JobRequest, RefusesAJobNameOf10000Characters) {
  const std::string longer(10000, 'j');
  const absl::Status name = CheckJobName("projects/default/jobs/" + longer);
  EXPECT_TRUE(absl::IsInvalidArgument(name)) << name;
  ExpectReachesTheClient(name);
  ham::v1::CreateJobRequest create;
  create.set_parent("projects/" + longer);
  (*create.mutable_labels())["name"] = longer;
  create.mutable_spec()->mutable_train()->mutable_data()->set_name("fashion-mnist");
  const absl::Status refused = CheckCreateJob(create, create.spec(), "admin", "1").status();
  ExpectReachesTheClient(refused);
  EXPECT_EQ(FieldViolationsOf(refused).size(), 2u) << refused;
}

TEST(JobRequest, RefusesLongTextInAnAnswerThatReachesTheClient) {
  ham::v1::CreateJobRequest create;
  create.set_parent(kEuros);
  create.set_request_id(kEuros);
  auto* train = create.mutable_spec()->mutable_train();
  train->mutable_data()->set_name(kEuros);
  train->mutable_model()->set_name(kEuros);
  train->mutable_optimizer()->set_schedule(kEuros);
  train->mutable_optimizer()->add_milestones(std::numeric_limits<int32_t>::max());
  train->mutable_optimizer()->add_milestones(1);
  train->mutable_evaluation()->add_suites()->set_name(kEuros);
  ExpectReachesTheClient(CheckCreateJob(create, create.spec(), "admin", "1").status());
  ham::v1::ListJobsRequest list;
  list.set_parent("projects/default");
  list.set_page_token("a" + kEuros);
  ExpectReachesTheClient(CheckListJobs(list).status());
  ExpectReachesTheClient(CheckJobName("ab" + kEuros));
  ExpectReachesTheClient(WatchTokens("e").Read("projects/default/jobs/j", "a" + kEuros).status());
}

TEST(JobRequest, AnEvaluationIsAPoolWithNeedsOfItsOwn) {
  ham::v1::CreateJobRequest create;
  create.set_parent("projects/default");
  auto* evaluate = create.mutable_spec()->mutable_evaluate();
  evaluate->set_weights(std::string(64, 'a'));
  evaluate->mutable_data()->set_name("svhn");
  evaluate->mutable_resources()->set_world_size(7);
  evaluate->mutable_resources()->set_device("cuda");
  evaluate->mutable_retry()->set_max_attempts(2);
  const absl::StatusOr<NewJob> job = CheckCreateJob(create, create.spec(), "admin", "1");
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_TRUE(job->row.pool);
  EXPECT_EQ(job->row.world_size, 7);
  EXPECT_EQ(job->row.device, "cuda");
  EXPECT_EQ(job->row.data_set, "svhn");
  EXPECT_EQ(job->row.max_attempts, 2);
  EXPECT_EQ(job->content.spec.evaluate().suite().name(), "autoattack");
  evaluate->set_job("projects/default/jobs/j1");
  const absl::StatusOr<NewJob> two = CheckCreateJob(create, create.spec(), "admin", "1");
  ASSERT_EQ(FieldViolationsOf(two.status()).size(), 1u) << two.status();
  EXPECT_EQ(FieldViolationsOf(two.status())[0].field, "spec.evaluate.job");
  evaluate->clear_job();
  evaluate->clear_weights();
  const absl::StatusOr<NewJob> refused = CheckCreateJob(create, create.spec(), "admin", "1");
  ASSERT_EQ(FieldViolationsOf(refused.status()).size(), 1u);
  EXPECT_EQ(FieldViolationsOf(refused.status())[0].field, "spec.evaluate.weights");
}

TEST(CheckpointManifest, KnowsItsFilesByName) {
  const std::string a(64, 'a'), b(64, 'b'), c(64, 'c');
  const auto manifest = ParseCheckpointManifest(R"({"iteration": 1, "epoch": 1, "files": [{"sha256": ")" + a +
                                                R"("}, {"name": 3, "sha256": ")" + b +
                                                R"("}, {"name": "state.safetensors", "sha256": ")" + c + R"("}]})");
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->files.size(), 3u);
  EXPECT_EQ(manifest->state, c);
  EXPECT_EQ(manifest->model, "");
}

TEST(CheckpointManifest, RefusesCountersThatNoTrainerWrites) {
  const auto parse = [](const std::string& iteration, const std::string& epoch) {
    return ParseCheckpointManifest(R"({"files": [], "iteration": )" + iteration + R"(, "epoch": )" + epoch + "}")
        .status()
        .code();
  };
  EXPECT_EQ(parse("0", "0"), absl::StatusCode::kOk);
  EXPECT_EQ(parse("9223372036854775807", "2147483647"), absl::StatusCode::kOk);
  for (const char* wrong : {"-1", "9223372036854775808", "18446744073709551615", "1.0", "true", "\"1\""}) {
    EXPECT_EQ(parse(wrong, "0"), absl::StatusCode::kInvalidArgument) << wrong;
    EXPECT_EQ(parse("0", wrong), absl::StatusCode::kInvalidArgument) << wrong;
  }
  EXPECT_EQ(parse("0", "2147483648"), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace ham::server

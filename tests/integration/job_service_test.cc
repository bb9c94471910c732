// CreateJob, GetJob, ListJobs, CancelJob, as a client sees them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "server/job_store.h"
#include "tests/integration/scripted_worker.h"
#include "tests/integration/test_server.h"

namespace ham::testing {
namespace {

using ham::v1::CreateJobRequest;
using ham::v1::Job;
using ham::v1::ObservedRank;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

class JobServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::Status status = server_.Start();
    ASSERT_TRUE(status.ok()) << status;
    client_.emplace(server_);
  }
  // Fields named by the refusal of `request`.
  std::vector<std::string> WrongFields(const CreateJobRequest& request) {
    const absl::StatusOr<Job> job = client_->Create(request);
    EXPECT_TRUE(absl::IsInvalidArgument(job.status())) << job.status();
    EXPECT_EQ(ReasonOf(job.status()), "INVALID_FIELD");
    std::vector<std::string> fields;
    for (const FieldViolation& violation : FieldViolationsOf(job.status())) {
      fields.push_back(violation.field);
      EXPECT_FALSE(violation.description.empty());
    }
    return fields;
  }

  TestServer server_;
  std::optional<Client> client_;
};

// ---- CreateJob ---------------------------------------------------------------------------------------------

TEST_F(JobServiceTest, CreatesAQueuedJobWithItsDefaultsResolved) {
  CreateJobRequest request = SmallRequest();
  (*request.mutable_labels())["team"] = "a\xC3\xA9";
  const absl::StatusOr<Job> created = client_->Create(request);
  ASSERT_TRUE(created.ok()) << created.status();
  EXPECT_THAT(created->name(), MatchesRegex("projects/default/jobs/j[a-z0-9]{10}"));
  EXPECT_EQ(created->state(), Job::QUEUED);
  EXPECT_EQ(created->state_reason(), "NO_WORKER_FITS");
  EXPECT_EQ(created->creator(), "admin");
  EXPECT_EQ(created->labels().at("team"), "a\xC3\xA9");
  EXPECT_EQ(created->attempt(), 0);
  EXPECT_TRUE(created->has_create_time());
  EXPECT_FALSE(created->has_start_time());
  EXPECT_FALSE(created->has_checkpoint());
  EXPECT_EQ(created->spec().train().epochs(), 12);
  EXPECT_EQ(created->spec().train().evaluation().suites(0).attacks(0).steps(), 20);
  const absl::StatusOr<Job> got = client_->Get(created->name());
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->SerializeAsString(), created->SerializeAsString());
}

TEST_F(JobServiceTest, AcknowledgesAJobOnlyOnceItIsInTheFile) {
  const std::string name = client_->MustCreate();
  // What the disk holds at this moment, as after a kill.
  const TemporaryDirectory copy;
  for (const char* file : {"ham.db", "ham.db-wal"}) std::filesystem::copy(server_.StatePath(file), copy / file);
  const auto store = server::JobStore::Open(copy / "ham.db");
  ASSERT_TRUE(store.ok()) << store.status();
  const auto contents = (*store)->Load();
  ASSERT_TRUE(contents.ok()) << contents.status();
  ASSERT_EQ(contents->jobs.size(), 1u);
  EXPECT_EQ(contents->jobs[0].name, name);
  EXPECT_EQ(contents->last_sequence.at(name), 1);
}

TEST_F(JobServiceTest, GivesTheFirstJobForTheSameRequestId) {
  CreateJobRequest request = SmallRequest();
  request.set_request_id("r-1");
  (*request.mutable_labels())["a"] = "1";
  (*request.mutable_labels())["b"] = "2";
  const absl::StatusOr<Job> first = client_->Create(request);
  const absl::StatusOr<Job> again = client_->Create(request);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->name(), first->name());
  CreateJobRequest other_order = SmallRequest();
  other_order.set_request_id("r-1");
  (*other_order.mutable_labels())["b"] = "2";
  (*other_order.mutable_labels())["a"] = "1";
  EXPECT_EQ(client_->Create(other_order)->name(), first->name());
  ASSERT_TRUE(client_->Cancel(first->name()).ok());
  EXPECT_EQ(client_->Create(request)->state(), Job::CANCELLED);  // the job as it is now

  CreateJobRequest changed = request;
  changed.mutable_spec()->mutable_train()->set_epochs(3);
  const absl::StatusOr<Job> refused = client_->Create(changed);
  EXPECT_TRUE(absl::IsAlreadyExists(refused.status())) << refused.status();
  EXPECT_EQ(ReasonOf(refused.status()), "REQUEST_ID_REUSED");
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr(first->name()));
  changed.set_request_id("r-2");
  EXPECT_NE(client_->Create(changed)->name(), first->name());
  EXPECT_NE(client_->MustCreate(), client_->MustCreate());  // without one, each is new

  ASSERT_TRUE(server_.Restart().ok());
  client_.emplace(server_);
  EXPECT_EQ(client_->Create(request)->name(), first->name());
}

TEST_F(JobServiceTest, MakesOneJobOfSimultaneousRetries) {
  CreateJobRequest request = SmallRequest();
  request.set_request_id("race");
  std::vector<std::string> names(8);
  std::vector<std::thread> threads;
  for (std::string& name : names) {
    threads.emplace_back([this, &name, &request] {
      Client client(server_);
      const absl::StatusOr<Job> job = client.Create(request);
      name = job.ok() ? job->name() : job.status().ToString();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), 1u) << names[0] << " " << names[1];
  EXPECT_EQ(client_->Get(names[0])->name(), names[0]);
}

TEST_F(JobServiceTest, NamesEachWrongField) {
  const struct {
    const char* field;
    std::function<void(CreateJobRequest*)> spoil;
  } cases[] = {
      {"parent", [](auto* request) { request->set_parent("projects/other"); }},
      {"parent", [](auto* request) { request->clear_parent(); }},
      {"request_id", [](auto* request) { request->set_request_id("no spaces"); }},
      {"request_id", [](auto* request) { request->set_request_id(std::string(65, 'a')); }},
      {"labels", [](auto* request) { (*request->mutable_labels())["Upper"] = ""; }},
      {"labels", [](auto* request) { (*request->mutable_labels())[""] = ""; }},
      {"labels.a", [](auto* request) { (*request->mutable_labels())["a"] = std::string(256, 'v'); }},
      {"labels",
       [](auto* request) {
         for (int i = 0; i < 65; ++i) (*request->mutable_labels())[absl::StrCat("l", i)] = "";
       }},
      {"spec.train", [](auto* request) { request->clear_spec(); }},
      {"spec.train.data.name", [](auto* request) { request->mutable_spec()->mutable_train()->clear_data(); }},
      {"spec.train.data.name",
       [](auto* request) { request->mutable_spec()->mutable_train()->mutable_data()->set_name("../etc"); }},
      {"spec.train.attack.step_size",
       [](auto* request) { request->mutable_spec()->mutable_train()->mutable_attack()->set_step_size(-0.1); }},
      {"spec.train.method.mining_step",
       [](auto* request) { request->mutable_spec()->mutable_train()->mutable_method()->set_mining_step(11); }},
      {"spec.train.resources.world_size",
       [](auto* request) { request->mutable_spec()->mutable_train()->mutable_resources()->set_world_size(0); }},
  };
  for (const auto& one : cases) {
    CreateJobRequest request = SmallRequest();
    one.spoil(&request);
    EXPECT_THAT(WrongFields(request), ElementsAre(one.field));
  }
  CreateJobRequest both = SmallRequest();
  both.set_parent("x");
  both.mutable_spec()->mutable_train()->set_epochs(0);
  EXPECT_THAT(WrongFields(both), ElementsAre("parent", "spec.train.epochs"));
  EXPECT_EQ(client_
                ->List([] {
                  ham::v1::ListJobsRequest all;
                  all.set_parent("projects/default");
                  return all;
                }())
                ->jobs_size(),
            0);
}

TEST_F(JobServiceTest, RefusesUnknownFieldsAtAnyDepthByNumber) {
  CreateJobRequest top = SmallRequest();
  top.GetReflection()->MutableUnknownFields(&top)->AddVarint(77, 1);
  EXPECT_THAT(WrongFields(top), ElementsAre("#77"));

  CreateJobRequest deep = SmallRequest();
  auto* evaluation = deep.mutable_spec()->mutable_train()->mutable_evaluation();
  evaluation->add_suites()->set_name("first");
  evaluation->mutable_suites(0)->add_attacks();
  evaluation->add_suites()->set_name("second");
  auto* attack = evaluation->mutable_suites(1)->add_attacks();
  attack->GetReflection()->MutableUnknownFields(attack)->AddLengthDelimited(99, "from the future");
  EXPECT_THAT(WrongFields(deep), ElementsAre("spec.train.evaluation.suites[1].attacks[0].#99"));

  CreateJobRequest kind = SmallRequest();  // as from a client that knows another kind of job
  kind.mutable_spec()->clear_train();
  kind.mutable_spec()->GetReflection()->MutableUnknownFields(kind.mutable_spec())->AddLengthDelimited(3, "");
  EXPECT_THAT(WrongFields(kind), ElementsAre("spec.#3", "spec.train"));
}

// Trailers are limited to 8 KiB: a value that is quoted whole would take its error along.
TEST_F(JobServiceTest, ExplainsWrongValuesOfAnySize) {
  CreateJobRequest request = SmallRequest();
  request.mutable_spec()->mutable_train()->mutable_data()->set_name(std::string(300000, 'a'));
  EXPECT_THAT(WrongFields(request), ElementsAre("spec.train.data.name"));

  request = SmallRequest();
  request.mutable_spec()->mutable_train()->mutable_model()->set_name("long \xC3\xA9" + std::string(2000, '\n'));
  request.mutable_spec()->mutable_train()->mutable_optimizer()->set_schedule(std::string(20000, '%'));
  EXPECT_THAT(WrongFields(request), ElementsAre("spec.train.model.name", "spec.train.optimizer.schedule"));

  request = SmallRequest();
  for (int i = 0; i < 60; ++i) (*request.mutable_labels())[absl::StrCat("l", i)] = std::string(300, 'v');
  EXPECT_GE(WrongFields(request).size(), 5u);
}

TEST_F(JobServiceTest, CutsQuotedTextBetweenCharacters) {
  for (size_t shift = 0; shift < 4; ++shift) {
    CreateJobRequest request = SmallRequest();
    std::string key(shift, 'a');
    while (key.size() < 1000) key += "\xF0\x9F\x98\x80";
    (*request.mutable_labels())[key] = "";
    request.mutable_spec()->mutable_train()->mutable_data()->set_name(key);
    EXPECT_THAT(WrongFields(request), ElementsAre("labels", "spec.train.data.name"));
  }
}

TEST_F(JobServiceTest, RefusesTooLargeRequestsAndGoesOn) {
  CreateJobRequest request = SmallRequest();
  request.mutable_spec()->mutable_train()->mutable_data()->set_name(std::string(6 << 20, 'a'));
  EXPECT_TRUE(absl::IsResourceExhausted(client_->Create(request).status()));
  const RawAnswer garbage =
      RawCall(server_.NewChannel(), "/ham.v1.JobService/CreateJob", "\xFF\xFF\xFF", &server_.admin());
  EXPECT_FALSE(garbage.status.ok());
  const RawAnswer no_utf8 =
      RawCall(server_.NewChannel(), "/ham.v1.JobService/CreateJob", "\x0A\x02\xC3\x28", &server_.admin());
  EXPECT_FALSE(no_utf8.status.ok());
  EXPECT_TRUE(client_->Create(SmallRequest()).ok());
}

TEST(JobServiceUnderLoad, RefusesWhatItCannotQueue) {
  TestServer server;
  server.options.limits.queued_requests = 0;
  ASSERT_TRUE(server.Start().ok());
  Client client(server);
  ScriptedWorker worker(server, "a");
  const std::string name = "projects/default/jobs/j0";
  for (const absl::Status& status : {client.Create(SmallRequest()).status(), client.Get(name).status(),
                                     client.Cancel(name).status(), worker.Connect()}) {
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_EQ(ReasonOf(status), "QUEUE_FULL");
  }
}

// ---- GetJob, CancelJob -------------------------------------------------------------------------------------

TEST_F(JobServiceTest, KnowsNoJobThatWasNotCreated) {
  for (const absl::Status& status :
       {client_->Get("projects/default/jobs/j0").status(), client_->Cancel("projects/default/jobs/j0").status(),
        client_->Get("projects/other/jobs/j0").status()}) {
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    EXPECT_EQ(ReasonOf(status), "JOB_NOT_FOUND");
  }
  for (const char* name : {"", "j0", "projects/default/jobs/", "projects/default/jobs/j0/attempts/1",
                           "projects/default/workers/j0", "projects/default/jobs/J0", "projects//jobs/j0"}) {
    for (const absl::Status& status : {client_->Get(name).status(), client_->Cancel(name).status()}) {
      EXPECT_TRUE(absl::IsInvalidArgument(status)) << name << status;
      ASSERT_EQ(FieldViolationsOf(status).size(), 1u);
      EXPECT_EQ(FieldViolationsOf(status)[0].field, "name");
    }
  }
}

TEST_F(JobServiceTest, CancelsAWaitingJobAtOnceAndAgainWithoutEffect) {
  const std::string name = client_->MustCreate();
  const absl::StatusOr<Job> cancelled = client_->Cancel(name);
  ASSERT_TRUE(cancelled.ok()) << cancelled.status();
  EXPECT_EQ(cancelled->state(), Job::CANCELLED);
  EXPECT_TRUE(cancelled->has_end_time());
  EXPECT_EQ(cancelled->spec().train().data().name(), "fashion-mnist");
  const absl::StatusOr<Job> again = client_->Cancel(name);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->end_time().seconds(), cancelled->end_time().seconds());
  EXPECT_EQ(client_->Log(name).size(), 2u);
}

TEST_F(JobServiceTest, CancelsARunningJobOnceItsRanksHaveStopped) {
  ScriptedWorker worker(server_, "a");
  ASSERT_TRUE(worker.Connect().ok());
  const std::string name = client_->MustCreate();
  const auto rank = worker.Take(name, ObservedRank::RUNNING);
  ASSERT_TRUE(rank);
  ASSERT_TRUE(client_->WaitForState(name, Job::RUNNING).ok());
  EXPECT_EQ(client_->Cancel(name)->state(), Job::CANCELLING);
  EXPECT_EQ(client_->Cancel(name)->state(), Job::CANCELLING);
  ASSERT_TRUE(worker.WaitForAssignments(0));
  EXPECT_EQ(client_->Get(name)->state(), Job::CANCELLING);
  worker.Beat({Exited(*rank, false, ham::v1::PREEMPTED)});
  EXPECT_TRUE(client_->WaitForState(name, Job::CANCELLED).ok());
}

TEST_F(JobServiceTest, RefusesToCancelWhatHasEndedOtherwise) {
  ScriptedWorker worker(server_, "a");
  ASSERT_TRUE(worker.Connect().ok());
  for (const bool success : {true, false}) {
    const std::string name = client_->MustCreate();
    const auto rank = worker.Take(name, ObservedRank::RUNNING);
    ASSERT_TRUE(rank);
    worker.Beat({Exited(*rank, success, ham::v1::USER)});
    const absl::StatusOr<Job> ended = client_->WaitForState(name, success ? Job::SUCCEEDED : Job::FAILED);
    ASSERT_TRUE(ended.ok()) << ended.status();
    const absl::Status status = client_->Cancel(name).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_EQ(ReasonOf(status), "JOB_ENDED");
    EXPECT_EQ(client_->Get(name)->end_time().nanos(), ended->end_time().nanos());
  }
}

// ---- ListJobs ----------------------------------------------------------------------------------------------

ham::v1::ListJobsRequest ListRequest(int page_size, const std::string& token = "",
                                     const std::vector<Job::State>& states = {}) {
  ham::v1::ListJobsRequest request;
  request.set_parent("projects/default");
  request.set_page_size(page_size);
  request.set_page_token(token);
  for (const Job::State state : states) request.add_states(state);
  return request;
}

std::vector<std::string> NamesOf(const ham::v1::ListJobsResponse& response) {
  std::vector<std::string> names;
  for (const Job& job : response.jobs()) names.push_back(job.name());
  return names;
}

TEST_F(JobServiceTest, ListsPagesNewestFirstWithLabelsAndWithoutSpecs) {
  std::vector<std::string> names;
  for (int i = 0; i < 5; ++i) {
    CreateJobRequest request = SmallRequest();
    (*request.mutable_labels())["number"] = absl::StrCat(i);
    names.push_back(client_->Create(request)->name());
  }
  const absl::StatusOr<ham::v1::ListJobsResponse> first = client_->List(ListRequest(2));
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_THAT(NamesOf(*first), ElementsAre(names[4], names[3]));
  EXPECT_EQ(first->jobs(0).labels().at("number"), "4");
  EXPECT_FALSE(first->jobs(0).has_spec());
  EXPECT_EQ(first->jobs(0).state(), Job::QUEUED);
  ASSERT_FALSE(first->next_page_token().empty());
  const std::string newer = client_->MustCreate();  // no page shifts
  const absl::StatusOr<ham::v1::ListJobsResponse> second = client_->List(ListRequest(2, first->next_page_token()));
  EXPECT_THAT(NamesOf(*second), ElementsAre(names[2], names[1]));
  const absl::StatusOr<ham::v1::ListJobsResponse> third = client_->List(ListRequest(2, second->next_page_token()));
  EXPECT_THAT(NamesOf(*third), ElementsAre(names[0]));
  EXPECT_EQ(third->next_page_token(), "");
  EXPECT_EQ(client_->List(ListRequest(0))->jobs_size(), 6);
  EXPECT_EQ(client_->List(ListRequest(5000))->jobs_size(), 6);
  EXPECT_EQ(client_->List(ListRequest(6))->next_page_token(), "");  // the last page is known to be the last
  EXPECT_EQ(NamesOf(*client_->List(ListRequest(1)))[0], newer);
}

TEST_F(JobServiceTest, EndsAPageBeforeItIsTooLargeForAMessage) {
  CreateJobRequest request = SmallRequest();
  for (int i = 0; i < 64; ++i) (*request.mutable_labels())[absl::StrCat("label", i)] = std::string(255, 'v');
  std::vector<std::string> names;
  for (int i = 0; i < 80; ++i) names.push_back(client_->Create(request)->name());
  std::vector<std::string> listed;
  std::string token;
  int pages = 0;
  do {
    const absl::StatusOr<ham::v1::ListJobsResponse> page = client_->List(ListRequest(1000, token));
    ASSERT_TRUE(page.ok()) << page.status();
    EXPECT_LE(page->ByteSizeLong(), size_t{1100} << 10);
    for (const std::string& name : NamesOf(*page)) listed.insert(listed.begin(), name);
    token = page->next_page_token();
    ++pages;
  } while (!token.empty());
  EXPECT_EQ(listed, names);
  EXPECT_EQ(pages, 2);
}

TEST_F(JobServiceTest, ListsTheStatesAskedFor) {
  std::vector<std::string> names;
  for (int i = 0; i < 4; ++i) names.push_back(client_->MustCreate());
  ASSERT_TRUE(client_->Cancel(names[0]).ok());
  ASSERT_TRUE(client_->Cancel(names[2]).ok());
  const auto cancelled = client_->List(ListRequest(1, "", {Job::CANCELLED}));
  EXPECT_THAT(NamesOf(*cancelled), ElementsAre(names[2]));
  const auto rest = client_->List(ListRequest(1, cancelled->next_page_token(), {Job::CANCELLED}));
  EXPECT_THAT(NamesOf(*rest), ElementsAre(names[0]));
  EXPECT_EQ(rest->next_page_token(), "");
  EXPECT_EQ(client_->List(ListRequest(9, "", {Job::QUEUED, Job::CANCELLED}))->jobs_size(), 4);
  EXPECT_EQ(client_->List(ListRequest(9, "", {Job::FAILED}))->jobs_size(), 0);
  // A token goes with its filter.
  const absl::Status other = client_->List(ListRequest(1, cancelled->next_page_token(), {Job::QUEUED})).status();
  EXPECT_TRUE(absl::IsInvalidArgument(other)) << other;
  EXPECT_EQ(FieldViolationsOf(other).at(0).field, "page_token");
}

TEST_F(JobServiceTest, RefusesListRequestsThatMeanNothing) {
  client_->MustCreate();
  client_->MustCreate();
  const std::string good = client_->List(ListRequest(1))->next_page_token();
  for (const std::string& token :
       {std::string("x"), good + "x", good + ".1", good.substr(0, good.find('.')),
        good.substr(0, good.find('.')) + ".-1", good.substr(0, good.find('.')) + ".0", std::string(1000, '.')}) {
    const absl::Status status = client_->List(ListRequest(1, token)).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << token << status;
    ASSERT_EQ(FieldViolationsOf(status).size(), 1u) << token;
    EXPECT_EQ(FieldViolationsOf(status)[0].field, "page_token");
  }
  EXPECT_EQ(FieldViolationsOf(client_->List(ListRequest(-1)).status()).at(0).field, "page_size");
  EXPECT_EQ(FieldViolationsOf(client_->List(ListRequest(1, "", {Job::STATE_UNSPECIFIED})).status()).at(0).field,
            "states");
  EXPECT_EQ(FieldViolationsOf(client_->List(ListRequest(1, "", {static_cast<Job::State>(77)})).status()).at(0).field,
            "states");
  ham::v1::ListJobsRequest orphan;
  EXPECT_EQ(FieldViolationsOf(client_->List(orphan).status()).at(0).field, "parent");
}

}  // namespace
}  // namespace ham::testing

#include "server/job_request.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <algorithm>
#include <limits>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "proto/job_spec.h"
#include "proto/rpc_status.h"
#include "proto/sha256.h"
#include "proto/utf8.h"

namespace ham::server {
namespace {

constexpr char kProject[] = "projects/default";
constexpr int kDefaultPage = 50;
constexpr int kLargestPage = 1000;
constexpr size_t kMostLabels = 64;

bool AllOf(const std::string& text, size_t most, const char* others) {
  if (text.empty() || text.size() > most) return false;
  return std::all_of(text.begin(), text.end(), [others](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || std::string(others).find(c) != std::string::npos;
  });
}

constexpr char kUpper[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ._-";

std::string Quoted(const std::string& text) { return absl::StrCat("\"", Shown(text), "\""); }

void CheckParent(const std::string& parent, std::vector<FieldViolation>* wrong) {
  if (parent == kProject) return;
  wrong->push_back({"parent", absl::StrCat("parent ", Quoted(parent), " is unknown: the only project is ", kProject)});
}

void CheckUnknown(const google::protobuf::Message& message, std::vector<FieldViolation>* wrong) {
  for (const std::string& path : FindUnknownFields(message)) {
    wrong->push_back({path, absl::StrCat("field ", path,
                                         " is unknown to this coordinator: leave it out, or use a "
                                         "coordinator of the client's version")});
  }
}

void CheckLabels(const ham::v1::CreateJobRequest& request, std::vector<FieldViolation>* wrong) {
  if (static_cast<size_t>(request.labels_size()) > kMostLabels) {
    wrong->push_back({"labels", absl::StrCat("labels has ", request.labels_size(), " entries: at most ", kMostLabels,
                                             " are allowed")});
  }
  const std::map<std::string, std::string> sorted(request.labels().begin(), request.labels().end());
  for (const auto& [key, value] : sorted) {
    if (!AllOf(key, 63, "._-")) {
      wrong->push_back({"labels", absl::StrCat("label key ", Quoted(key), " must be 1 to 63 of [a-z0-9._-]")});
    } else if (value.size() > 255) {
      wrong->push_back({absl::StrCat("labels.", key), absl::StrCat("the value of label ", key, " has ", value.size(),
                                                                   " bytes: at most 255 are allowed")});
    }
  }
}

// Equal requests have equal hashes, whatever the order of their labels.
std::string HashOf(const ham::v1::CreateJobRequest& request) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    request.SerializeToCodedStream(&coded);
  }
  return Sha256Hex(bytes);
}

// Of what must stay the same from page to page.
std::string FilterHash(const ham::v1::ListJobsRequest& request) {
  std::set<int> states(request.states().begin(), request.states().end());
  return Sha256Hex(absl::StrCat(request.parent(), "|", absl::StrJoin(states, ","))).substr(0, 8);
}

// Spec: TrainSpec or EvaluateSpec.
template <typename Spec>
void FillNeeds(const Spec& spec, JobRow* row) {
  row->world_size = spec.resources().world_size();
  row->device = spec.resources().device();
  row->data_set = spec.data().name();
  row->max_attempts = spec.retry().max_attempts();
}

}  // namespace

absl::StatusOr<NewJob> CheckCreateJob(const ham::v1::CreateJobRequest& request, const ham::v1::JobSpec& spec,
                                      const std::string& creator, const std::string& id) {
  std::vector<FieldViolation> wrong;
  CheckParent(request.parent(), &wrong);
  CheckUnknown(request, &wrong);
  CheckLabels(request, &wrong);
  if (!request.request_id().empty() && !AllOf(request.request_id(), 64, kUpper)) {
    wrong.push_back({"request_id",
                     absl::StrCat("request_id ", Quoted(request.request_id()), " must be 1 to 64 of [A-Za-z0-9._-]")});
  }
  const ham::v1::EvaluateSpec& asked = request.spec().evaluate();
  if (!asked.weights().empty() && !asked.job().empty()) {
    wrong.push_back(
        {"spec.evaluate.job", absl::StrCat("spec.evaluate.job is ", Quoted(asked.job()),
                                           ", but spec.evaluate.weights is set too: leave out one of them")});
  }
  NewJob job;
  job.content.spec = spec;
  for (FieldViolation& violation : ResolveJobSpec(&job.content.spec)) {
    wrong.push_back({absl::StrCat("spec.", violation.field), std::move(violation.description)});
  }
  if (!wrong.empty()) return InvalidFields(wrong);
  job.content.labels.insert(request.labels().begin(), request.labels().end());
  job.request_id = request.request_id();
  job.request_hash = HashOf(request);
  job.row.name = absl::StrCat(kProject, "/jobs/j", id);
  job.row.creator = creator;
  job.row.pool = job.content.spec.has_evaluate();
  if (job.row.pool) {
    FillNeeds(job.content.spec.evaluate(), &job.row);
  } else {
    FillNeeds(job.content.spec.train(), &job.row);
  }
  return job;
}

absl::StatusOr<PageRequest> CheckListJobs(const ham::v1::ListJobsRequest& request) {
  std::vector<FieldViolation> wrong;
  CheckParent(request.parent(), &wrong);
  CheckUnknown(request, &wrong);
  if (request.page_size() < 0) {
    wrong.push_back({"page_size", absl::StrCat("page_size ", request.page_size(), " must lie in 0 to ", kLargestPage,
                                               " (0 = ", kDefaultPage, ")")});
  }
  for (const int state : request.states()) {
    if (state == ham::v1::Job::STATE_UNSPECIFIED || !ham::v1::Job::State_IsValid(state)) {
      wrong.push_back({"states", absl::StrCat("state ", state, " is unknown: use the values of Job.State")});
    }
  }
  PageRequest page;
  page.before = std::numeric_limits<int64_t>::max();
  if (!request.page_token().empty()) {
    const std::vector<std::string> parts = absl::StrSplit(request.page_token(), '.');
    const bool good = parts.size() == 2 && parts[0] == FilterHash(request) &&
                      absl::SimpleAtoi(parts[1], &page.before) && page.before > 0;
    if (!good) {
      wrong.push_back({"page_token", absl::StrCat("page_token ", Quoted(request.page_token()),
                                                  " is not from an answer to the same parent and states: start "
                                                  "with an empty one")});
    }
  }
  if (!wrong.empty()) return InvalidFields(wrong);
  page.size = request.page_size() == 0 ? kDefaultPage : std::min(request.page_size(), kLargestPage);
  return page;
}

std::string PageToken(const ham::v1::ListJobsRequest& request, int64_t last_index) {
  return absl::StrCat(FilterHash(request), ".", last_index);
}

absl::Status CheckJobName(const std::string& name) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  const bool good = parts.size() == 4 && parts[0] == "projects" && parts[2] == "jobs" && AllOf(parts[1], 63, "-") &&
                    AllOf(parts[3], 63, "-");
  if (good) return absl::OkStatus();
  return InvalidFields(
      {{"name", absl::StrCat("name ", Quoted(name), " is no job name: write projects/default/jobs/JOB")}});
}

absl::StatusOr<WatchRequest> CheckWatchJob(const ham::v1::WatchJobRequest& request) {
  if (const absl::Status status = CheckJobName(request.name()); !status.ok()) return status;
  std::vector<FieldViolation> wrong;
  CheckUnknown(request, &wrong);
  WatchRequest watch{request.token(), {}, request.follow()};
  for (const int kind : request.kinds()) {
    if (kind == ham::v1::RECORD_KIND_UNSPECIFIED || !ham::v1::RecordKind_IsValid(kind)) {
      wrong.push_back({"kinds", absl::StrCat("kind ", kind, " is unknown: use EVENT, METRIC, LOG or FINDING")});
    }
    watch.kinds.insert(kind);
  }
  if (!wrong.empty()) return InvalidFields(wrong);
  return watch;
}

}  // namespace ham::server

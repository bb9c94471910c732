#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "client/commands.h"
#include "client/output.h"
#include "client/text.h"

namespace ham::client {
namespace {

using ham::v1::Job;

constexpr int kLargestPage = 1000;

std::string Ran(const Job& job) {
  if (!job.has_start_time()) return "-";
  const absl::Time end = job.has_end_time() ? FromTimestamp(job.end_time()) : absl::Now();
  return ShortDuration(end - FromTimestamp(job.start_time()));
}

std::string TableOf(const ham::v1::ListJobsResponse& response) {
  std::vector<std::vector<std::string>> rows = {{"JOB", "STATE", "AGE", "RAN", "ATTEMPT", "LABELS", "REASON"}};
  for (const Job& job : response.jobs()) {
    const std::map<std::string, std::string> labels(job.labels().begin(), job.labels().end());
    rows.push_back({ShortName(job.name()), Job::State_Name(job.state()),
                    ShortDuration(absl::Now() - FromTimestamp(job.create_time())), Ran(job),
                    absl::StrCat(job.attempt()),
                    labels.empty() ? "-" : absl::StrJoin(labels, ",", absl::PairFormatter("=")),
                    job.state() == Job::SUCCEEDED ? "" : job.state_message()});
  }
  return Table(rows);
}

// Up to `limit` jobs, page by page.
absl::StatusOr<ham::v1::ListJobsResponse> ListAll(CoordinatorClient* client, const ListOptions& options) {
  ham::v1::ListJobsRequest request;
  request.set_parent("projects/default");
  for (const Job::State state : options.states) request.add_states(state);
  ham::v1::ListJobsResponse all;
  do {
    request.set_page_size(std::min(kLargestPage, options.limit - all.jobs_size()));
    request.set_page_token(all.next_page_token());
    absl::StatusOr<ham::v1::ListJobsResponse> page = client->ListJobs(request);
    if (!page.ok()) return page.status();
    for (Job& job : *page->mutable_jobs()) *all.add_jobs() = std::move(job);
    all.set_next_page_token(page->next_page_token());
  } while (!all.next_page_token().empty() && all.jobs_size() < options.limit);
  return all;
}

}  // namespace

Result Run(const GlobalOptions& global, const ListOptions& options) {
  absl::StatusOr<CoordinatorClient> client = Connect(global);
  if (!client.ok()) return client.status();
  const absl::StatusOr<ham::v1::ListJobsResponse> jobs = ListAll(&*client, options);
  if (!jobs.ok()) return jobs.status();
  Print(options.output == OutputFormat::kTable ? TableOf(*jobs) : Serialize(*jobs, options.output));
  if (!jobs->next_page_token().empty()) {
    std::fprintf(stderr, "hamctl: there are more jobs; --limit %d shows the newest only\n", options.limit);
  }
  return kDone;
}

}  // namespace ham::client

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "client/commands.h"
#include "client/output.h"
#include "client/text.h"

namespace ham::client {

// Tries each job; the first error gives the exit code.
Result Run(const GlobalOptions& global, const CancelOptions& options) {
  absl::StatusOr<CoordinatorClient> client = Connect(global);
  if (!client.ok()) return client.status();
  absl::Status first;
  for (const std::string& name : options.jobs) {
    const absl::StatusOr<ham::v1::Job> job = client->CancelJob(JobName(name));
    if (job.ok()) {
      Print(options.output == OutputFormat::kTable
                ? absl::StrCat(ShortName(job->name()), " ", ham::v1::Job::State_Name(job->state()), "\n")
                : Serialize(*job, options.output, /*stream=*/true));
    } else if (first.ok()) {
      first = job.status();
    } else {
      std::fprintf(stderr, "hamctl: %s\n", Printable(std::string(job.status().message())).c_str());
    }
  }
  if (!first.ok()) return first;
  return kDone;
}

}  // namespace ham::client

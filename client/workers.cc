#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "client/commands.h"
#include "client/output.h"
#include "client/text.h"

namespace ham::client {
namespace {

using ham::v1::Worker;

std::vector<std::string> Row(const Worker& worker) {
  int busy = 0;
  std::set<std::string> devices, jobs;
  for (const ham::v1::Slot& slot : worker.slots()) {
    devices.insert(slot.device_name().empty() ? slot.device() : absl::StrCat(slot.device(), " ", slot.device_name()));
    if (slot.job().empty()) continue;
    ++busy;
    jobs.insert(ShortName(slot.job()));
  }
  std::vector<std::string> data;
  for (const ham::v1::DataSet& set : worker.data_sets()) data.push_back(set.name());
  return {ShortName(worker.name()),
          Worker::State_Name(worker.state()),
          absl::StrCat(busy, "/", worker.slots_size()),
          absl::StrJoin(devices, ", "),
          data.empty() ? "-" : absl::StrJoin(data, ", "),
          jobs.empty() ? "-" : absl::StrJoin(jobs, ", "),
          absl::StrCat(ShortDuration(absl::Now() - FromTimestamp(worker.last_beat_time())), " ago")};
}

// Below the table, since it is long and rare.
std::string Problems(const ham::v1::ListWorkersResponse& workers) {
  std::string text;
  for (const Worker& worker : workers.workers()) {
    for (const ham::v1::Slot& slot : worker.slots()) {
      if (!slot.has_problem()) continue;
      absl::StrAppend(&text, "slot ", slot.index(), " of ", ShortName(worker.name()),
                      " gets no ranks: ", ham::v1::SlotProblem::Kind_Name(slot.problem().kind()), ": ",
                      Printable(slot.problem().message()), "\n");
    }
  }
  return text;
}

}  // namespace

Result Run(const GlobalOptions& global, const WorkersOptions& options) {
  absl::StatusOr<CoordinatorClient> client = Connect(global);
  if (!client.ok()) return client.status();
  const absl::StatusOr<ham::v1::ListWorkersResponse> workers = client->ListWorkers();
  if (!workers.ok()) return workers.status();
  if (options.output != OutputFormat::kTable) {
    Print(Serialize(*workers, options.output));
    return kDone;
  }
  std::vector<std::vector<std::string>> rows = {{"WORKER", "STATE", "BUSY", "DEVICE", "DATA SETS", "JOBS", "BEAT"}};
  for (const Worker& worker : workers->workers()) rows.push_back(Row(worker));
  Print(absl::StrCat(Table(rows), Problems(*workers)));
  return kDone;
}

}  // namespace ham::client

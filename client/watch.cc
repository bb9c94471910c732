#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/commands.h"
#include "client/interrupt.h"
#include "client/job_follower.h"
#include "client/live_view.h"
#include "client/output.h"
#include "client/record_lines.h"
#include "client/screen.h"
#include "client/text.h"

namespace ham::client {
namespace {

// Every record as a message.
class RecordPrinter : public FollowSink {
 public:
  explicit RecordPrinter(OutputFormat format) : format_(format) {}
  void Receive(const ham::v1::WatchJobResponse& response) override {
    for (const ham::v1::JobRecord& record : response.records()) Print(Serialize(record, format_, /*stream=*/true));
  }
  void Lost(const absl::Status& status) override { SayLost(status); }

 private:
  const OutputFormat format_;
};

class LinePrinter : public FollowSink {
 public:
  void Receive(const ham::v1::WatchJobResponse& response) override {
    std::string text;
    for (const ham::v1::JobRecord& record : response.records()) {
      if (!thinned_.Shows(record)) continue;
      for (const std::string& line : RecordLines(record)) absl::StrAppend(&text, line, "\n");
    }
    if (!text.empty()) Print(text);
  }
  void Lost(const absl::Status& status) override { SayLost(status); }

 private:
  ThinnedProgress thinned_;
};

class LivePrinter : public FollowSink {
 public:
  void Receive(const ham::v1::WatchJobResponse& response) override {
    Apply(response, &progress_);
    std::vector<std::string> above;
    for (const ham::v1::JobRecord& record : response.records()) {
      const ham::v1::MetricPoint& metric = record.metric();
      if (metric.has_train() || metric.has_summary() || metric.evaluation().has_progress()) continue;
      for (const std::string& line : RecordLines(record)) above.push_back(line);
    }
    Draw(above);
  }
  void Lost(const absl::Status& status) override {
    Draw({absl::StrCat("connection lost (", Printable(std::string(status.message())), "); trying again")});
  }

 private:
  void Draw(const std::vector<std::string>& above) {
    const Screen screen = DetectScreen();  // its size may have changed
    Print(printer_.Draw(above, RenderLiveView(progress_, screen, absl::Now()), screen));
  }

  BlockPrinter printer_;
  JobProgress progress_;
};

std::unique_ptr<FollowSink> MakeSink(OutputFormat format) {
  if (format != OutputFormat::kTable) return std::make_unique<RecordPrinter>(format);
  if (DetectScreen().drawable) return std::make_unique<LivePrinter>();
  return std::make_unique<LinePrinter>();
}

}  // namespace

Result Watch(const GlobalOptions& global, CoordinatorClient* client, const WatchOptions& options) {
  FollowRequest request;
  request.job = JobName(options.job);
  request.max_wait = options.max_wait;
  request.kinds = {ham::v1::EVENT, ham::v1::METRIC};
  if (options.output != OutputFormat::kTable) request.kinds.push_back(ham::v1::LOG);
  CallCancel cancel;
  const std::unique_ptr<FollowSink> sink = MakeSink(options.output);
  const Interrupt interrupt([&cancel] { cancel.Cancel(); });
  const absl::StatusOr<ham::v1::Job> job = FollowJob(client, request, &cancel, sink.get());
  if (job.ok()) {
    if (options.output == OutputFormat::kTable) {
      Print(EndLine(*job) + "\n");
      if (job->spec().has_evaluate() && job->state() == ham::v1::Job::SUCCEEDED) {
        Print(absl::StrCat("its record: ", CommandOf(global, "eval get", request.job), "\n"));
      }
    }
    return ExitCodeOf(job->state());
  }
  const std::string again = CommandOf(global, "watch", request.job);
  if (absl::IsCancelled(job.status())) {
    std::fprintf(stderr, "\nhamctl: the job goes on; watch it again with: %s\n", again.c_str());
    return kInterrupted;
  }
  return absl::Status(job.status().code(),
                      absl::StrCat(std::string(job.status().message()), "; watch it again with: ", again));
}

Result Run(const GlobalOptions& global, const WatchOptions& options) {
  absl::StatusOr<CoordinatorClient> client = Connect(global);
  if (!client.ok()) return client.status();
  // Waits less for a coordinator that is not there than a running watch does.
  const absl::StatusOr<ham::v1::Job> job = client->GetJob(JobName(options.job));
  if (!job.ok()) return job.status();
  return Watch(global, &*client, options);
}

}  // namespace ham::client

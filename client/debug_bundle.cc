#include <deque>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/bundle_file.h"
#include "client/commands.h"
#include "client/interrupt.h"
#include "client/job_follower.h"
#include "client/new_file.h"
#include "client/output.h"
#include "client/text.h"
#include "proto/version.h"

namespace ham::client {
namespace {

// Of each job, and of each file that is added: the newest of it.
constexpr size_t kMostBundledBytes = 32 << 20;

// Records as lines of JSON.
class NewestRecords : public FollowSink {
 public:
  void Receive(const ham::v1::WatchJobResponse& response) override {
    for (const ham::v1::JobRecord& record : response.records()) {
      lines_.push_back(Serialize(record, OutputFormat::kJson, /*stream=*/true));
      bytes_ += lines_.back().size();
      while (bytes_ > kMostBundledBytes) {
        bytes_ -= lines_.front().size();
        lines_.pop_front();
        ++dropped_;
      }
    }
  }
  void Lost(const absl::Status& status) override { SayLost(status); }

  std::string Text() const {
    std::string text;
    for (const std::string& line : lines_) text += line;
    return text;
  }
  size_t dropped() const { return dropped_; }

 private:
  std::deque<std::string> lines_;
  size_t bytes_ = 0;
  size_t dropped_ = 0;
};

absl::StatusOr<std::string> EndOfFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::error_code error;
  if (!file || std::filesystem::is_directory(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read --add ", path, ": name a file that you may read"));
  }
  std::string text;
  for (std::string block(1 << 20, '\0');
       file.read(block.data(), static_cast<std::streamsize>(block.size())) || file.gcount() > 0;) {
    text.append(block, 0, static_cast<size_t>(file.gcount()));
    if (text.size() > 2 * kMostBundledBytes) text.erase(0, text.size() - kMostBundledBytes);
  }
  if (text.size() > kMostBundledBytes) text.erase(0, text.size() - kMostBundledBytes);
  return text;
}

// What goes into the archive, and what could not be had.
class Collection {
 public:
  explicit Collection(const ConnectionConfig& config) : secrets_({config.token}) {}

  void Add(const std::string& name, const std::string& text) {
    entries_.push_back({name, WithoutSecrets(text, secrets_)});
  }
  template <class Message>
  bool Add(const std::string& name, const absl::StatusOr<Message>& message) {
    if (message.ok()) {
      Add(name, Serialize(*message, OutputFormat::kJson));
    } else {
      Miss(name, std::string(message.status().message()));
    }
    return message.ok();
  }
  void Miss(const std::string& name, const std::string& why) {
    missing_.push_back({{"name", name}, {"why", WithoutSecrets(why, secrets_)}});
  }

  absl::Status Write(const std::string& path, const std::vector<std::string>& endpoints) {
    const nlohmann::ordered_json about = {
        {"time", absl::FormatTime(absl::RFC3339_sec, absl::Now(), absl::UTCTimeZone())},
        {"client", {{"version", kVersion}, {"build_id", BuildId()}}},
        {"endpoints", endpoints},
        {"missing", missing_}};
    entries_.push_back({"bundle.json", about.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"});
    return WriteBundle(path, entries_);
  }
  size_t missing() const { return missing_.size(); }
  size_t size() const { return entries_.size(); }

 private:
  const std::vector<std::string> secrets_;
  std::vector<BundleEntry> entries_;
  nlohmann::ordered_json missing_ = nlohmann::ordered_json::array();
};

// CANCELLED by `cancel`; what else cannot be had is missing from the collection.
absl::Status AddJob(CoordinatorClient* client, const std::string& name, CallCancel* cancel, Collection* collection) {
  const std::string folder = absl::StrCat("jobs/", ShortName(name), "/");
  if (!collection->Add(folder + "job.json", client->GetJob(name))) return absl::OkStatus();
  FollowRequest request;
  request.job = name;
  request.follow = false;
  request.reconnect_limit = absl::Seconds(10);
  NewestRecords records;
  const absl::StatusOr<ham::v1::Job> end = FollowJob(client, request, cancel, &records);
  if (absl::IsCancelled(end.status())) return end.status();
  if (!end.ok()) collection->Miss(folder + "records.jsonl", std::string(end.status().message()));
  if (records.dropped() > 0) {
    collection->Miss(folder + "records.jsonl", absl::StrCat("its first ", records.dropped(),
                                                            " records, to keep it small: hamctl watch, hamctl logs"));
  }
  collection->Add(folder + "records.jsonl", records.Text());
  return absl::OkStatus();
}

}  // namespace

Result Run(const GlobalOptions& global, const DebugBundleOptions& options) {
  const absl::StatusOr<ConnectionConfig> config = ReadLogin(global);
  if (!config.ok()) return config.status();
  CoordinatorClient client(*config, global.timeout);
  const std::string path = options.file.empty()
                               ? absl::FormatTime("ham-debug-%Y%m%dT%H%M%SZ.zip", absl::Now(), absl::UTCTimeZone())
                               : options.file;
  if (const absl::Status status = CheckNothingAt(path, kBundleFlag); !status.ok()) return status;
  Collection collection(*config);
  for (size_t i = 0; i < options.add.size(); ++i) {
    const std::filesystem::path file = options.add[i];
    const absl::StatusOr<std::string> text = EndOfFile(file);
    if (!text.ok()) return text.status();
    collection.Add(absl::StrCat("files/", i + 1, "-", file.filename().string()), *text);
  }
  CallCancel cancel;
  const Interrupt interrupt([&cancel] { cancel.Cancel(); });
  const bool reached = collection.Add("coordinator.json", client.GetVersion());
  if (reached) {
    collection.Add("workers.json", client.ListWorkers());
    ham::v1::ListJobsRequest newest;
    newest.set_parent("projects/default");
    newest.set_page_size(options.jobs);
    const absl::StatusOr<ham::v1::ListJobsResponse> jobs = client.ListJobs(newest);
    collection.Add("jobs.json", jobs);
    std::set<std::string> names;
    for (const std::string& job : options.job) names.insert(JobName(job));
    if (names.empty() && jobs.ok()) {
      for (const ham::v1::Job& job : jobs->jobs()) names.insert(job.name());
    }
    for (const std::string& name : names) {
      const absl::Status status = AddJob(&client, name, &cancel, &collection);
      if (!status.ok()) return status;
    }
  }
  if (const absl::Status status = collection.Write(path, config->endpoints); !status.ok()) return status;
  Print(absl::StrCat(path, ": ", collection.size(), " files",
                     collection.missing() == 0
                         ? ""
                         : absl::StrCat("; bundle.json names ", collection.missing(), " that could not be had"),
                     ". Tokens and keys are left out; look through it before you send it.\n"));
  return kDone;
}

}  // namespace ham::client

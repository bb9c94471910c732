#include <fstream>
#include <iostream>
#include <optional>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/commands.h"
#include "client/output.h"
#include "client/text.h"
#include "proto/job_spec.h"
#include "proto/rpc_status.h"
#include "proto/sha256.h"

namespace ham::client {
namespace {

constexpr size_t kMostBytes = (1 << 20) + 1;  // one more than ParseJobSpecYaml takes; /dev/zero ends too

absl::StatusOr<std::string> ReadSpecFile(const std::string& path) {
  std::ifstream file;
  if (path != "-") file.open(path);
  std::istream& input = path == "-" ? std::cin : file;
  std::string text(kMostBytes, '\0');
  input.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(input.gcount()));
  if (!text.empty()) return text;
  return absl::InvalidArgumentError(absl::StrCat("cannot read a job spec from ", path == "-" ? "standard input" : path,
                                                 ": name a YAML file that can be read and is not empty"));
}

struct WeightsFile {
  std::string digest;
  int64_t size = 0;
};

absl::StatusOr<WeightsFile> ReadWeightsFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  Sha256 digest;
  WeightsFile out;
  std::string bytes(1 << 20, '\0');
  do {
    file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    digest.Update({bytes.data(), static_cast<size_t>(file.gcount())});
    out.size += file.gcount();
  } while (file);
  if (out.size == 0 || !file.eof()) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read --weights ", path, ": name a safetensors file"));
  }
  out.digest = digest.Hex();
  return out;
}

// Puts the digest of --weights, if any, into the spec.
absl::Status NameWeights(const SubmitOptions& options, const std::optional<WeightsFile>& weights,
                         ham::v1::JobSpec* spec) {
  auto* evaluate = spec->has_evaluate() ? spec->mutable_evaluate() : nullptr;
  if (evaluate != nullptr && evaluate->has_job()) evaluate->set_job(JobName(evaluate->job()));
  if (!weights.has_value()) return absl::OkStatus();
  const auto refused = [&](const std::string& why) {
    return absl::InvalidArgumentError(absl::StrCat("--weights is given, but ", options.file, " ", why));
  };
  if (evaluate == nullptr) return refused("is no evaluation; remove --weights or add a section evaluate");
  if (!evaluate->job().empty()) return refused("has evaluate.job, which brings its own weights; leave out one of them");
  if (!evaluate->weights().empty() && evaluate->weights() != weights->digest) {
    return refused(absl::StrCat("has the SHA-256 of another file in evaluate.weights; ", options.weights, " has ",
                                weights->digest));
  }
  evaluate->set_weights(weights->digest);
  return absl::OkStatus();
}

std::string NewRequestId() {
  std::random_device random;
  return absl::StrFormat("%08x%08x%08x%08x", random(), random(), random(), random());
}

absl::StatusOr<ham::v1::CreateJobRequest> MakeRequest(const SubmitOptions& options,
                                                      const std::optional<WeightsFile>& weights) {
  const absl::StatusOr<std::string> text = ReadSpecFile(options.file);
  if (!text.ok()) return text.status();
  absl::StatusOr<ham::v1::JobSpec> spec = ParseJobSpecYaml(*text);
  if (!spec.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(options.file, ": ", std::string(spec.status().message())));
  }
  for (const std::string& set : options.set) {
    const size_t equals = set.find('=');
    const absl::Status status = SetJobSpecField(set.substr(0, equals), set.substr(equals + 1), &*spec);
    if (!status.ok()) return absl::InvalidArgumentError(absl::StrCat("--set: ", std::string(status.message())));
  }
  if (const absl::Status status = NameWeights(options, weights, &*spec); !status.ok()) return status;
  ham::v1::CreateJobRequest request;
  request.set_parent("projects/default");
  *request.mutable_spec() = *std::move(spec);
  request.mutable_labels()->insert(options.labels.begin(), options.labels.end());
  request.set_request_id(options.request_id.empty() ? NewRequestId() : options.request_id);
  return request;
}

// The coordinator checks and completes the spec itself; this is for those who have none at hand.
Result PrintResolved(ham::v1::JobSpec spec, OutputFormat format) {
  const std::vector<FieldViolation> violations = ResolveJobSpec(&spec);
  if (!violations.empty()) return InvalidFields(violations);
  Print(Serialize(spec, format == OutputFormat::kTable ? OutputFormat::kYaml : format));
  return kDone;
}

}  // namespace

Result Run(const GlobalOptions& global, const SubmitOptions& options) {
  std::optional<WeightsFile> weights;
  if (!options.weights.empty()) {
    const absl::StatusOr<WeightsFile> read = ReadWeightsFile(options.weights);
    if (!read.ok()) return read.status();
    weights = *read;
  }
  const absl::StatusOr<ham::v1::CreateJobRequest> request = MakeRequest(options, weights);
  if (!request.ok()) return request.status();
  if (options.dry_run) return PrintResolved(request->spec(), options.output);
  absl::StatusOr<CoordinatorClient> client = Connect(global);
  if (!client.ok()) return client.status();
  if (weights.has_value()) {
    const absl::Status sent = client->UploadWeights(options.weights, weights->digest, weights->size);
    if (!sent.ok()) return sent;
  }
  const absl::StatusOr<ham::v1::Job> job = client->CreateJob(*request);
  if (!job.ok()) return job.status();
  const std::string id = ShortName(job->name());
  const bool table = options.output == OutputFormat::kTable;
  if (options.watch) {
    // Records do not name their job: it comes first.
    Print(table ? absl::StrCat("submitted ", id, "\n") : Serialize(*job, options.output, /*stream=*/true));
    WatchOptions watch;
    watch.job = job->name();
    watch.max_wait = options.max_wait;
    watch.output = options.output;
    return Watch(global, &*client, watch);
  }
  Print(table ? absl::StrCat("submitted ", id, "; follow it with: ", CommandOf(global, "watch", id), "\n")
              : Serialize(*job, options.output));
  return kDone;
}

}  // namespace ham::client

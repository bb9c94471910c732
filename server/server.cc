#include "server/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <openssl/rand.h>
#include <spdlog/spdlog.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/atomic_file.h"
#include "proto/sha256.h"
#include "proto/strict_json.h"
#include "server/backup.h"
#include "server/certificates.h"
#include "server/loop_calls.h"

namespace ham::server {
namespace {

constexpr int kMessageBytes = 5 << 20;  // a report of 4 MiB and what wraps it

std::string NewJobId() {
  static constexpr char kDigits[] = "abcdefghijklmnopqrstuvwxyz0123456789";
  std::string id;
  unsigned char byte = 0;
  while (id.size() < 10) {
    if (RAND_bytes(&byte, 1) != 1) std::abort();
    if (byte < 252) id += kDigits[byte % 36];  // 252 = 7 * 36: each digit is equally likely
  }
  return id;
}

std::string HostOf(const std::string& address) { return address.substr(0, address.rfind(':')); }

// Where others find this coordinator.
std::vector<std::string> Endpoints(const ServerOptions& options, int port) {
  std::vector<std::string> hosts = options.advertise;
  if (hosts.empty()) {
    const std::string host = HostOf(options.listen);
    hosts.push_back(host == "0.0.0.0" || host == "[::]" || host.empty() ? "localhost" : host);
  }
  std::vector<std::string> endpoints;
  for (const std::string& host : hosts) {
    const bool bare = host.find(':') != std::string::npos && host.front() != '[';  // an IPv6 address
    endpoints.push_back(bare ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port));
  }
  return endpoints;
}

std::shared_ptr<grpc::ServerCredentials> Credentials(const Identity& identity) {
  if (identity.server_certificate.empty()) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions tls;
  // With the authority: a worker that joins by a token takes it from here.
  tls.pem_key_cert_pairs.push_back({identity.server_key, identity.server_certificate + identity.ca_certificate});
  return grpc::SslServerCredentials(tls);
}

}  // namespace

absl::Status Server::Start() {
  absl::StatusOr<StateLock> lock = StateLock::Acquire(options_.state_dir);
  if (!lock.ok()) return lock.status();
  lock_.emplace(*std::move(lock));
  if (const absl::Status status = CheckRestoreFinished(options_.state_dir); !status.ok()) return status;
  absl::StatusOr<Identity> identity = LoadOrCreateIdentity(options_.state_dir, options_.advertise, options_.insecure);
  if (!identity.ok()) return identity.status();
  authenticator_.emplace(Sha256Hex(identity->admin_token), Sha256Hex(identity->worker_token));
  if (std::filesystem::exists(options_.state_dir + "/ham.db")) {
    if (const absl::Status status = CheckArtifactsMounted(options_.state_dir + "/artifacts"); !status.ok())
      return status;
  }
  absl::StatusOr<std::unique_ptr<ArtifactStore>> artifacts =
      OpenArtifactDirectory(options_.state_dir + "/artifacts", options_.artifact_quota);
  if (!artifacts.ok()) return artifacts.status();
  artifacts_ = *std::move(artifacts);
  absl::StatusOr<SigningKey> key = SigningKey::LoadOrCreate(options_.state_dir + "/signing_key.pem");
  if (!key.ok()) return key.status();
  signing_key_ = Base64Encode(key->public_key());
  record_writer_.emplace(*std::move(key), artifacts_.get(), options_.limits.store_reopen);
  absl::StatusOr<std::unique_ptr<JobStore>> store = JobStore::Open(options_.state_dir + "/ham.db");
  if (!store.ok()) return store.status();
  store_ = *std::move(store);
  absl::StatusOr<Store::Contents> contents = store_->Load();
  if (!contents.ok()) return contents.status();
  for (const std::string& sentence : contents->damaged_jobs) spdlog::error(sentence);
  const size_t jobs = contents->jobs.size();
  StartLoop(*std::move(contents));
  StartCollector();
  if (const absl::Status status = Listen(*identity); !status.ok()) return status;
  if (const absl::Status status = ServeMetrics(*identity); !status.ok()) return status;
  if (const absl::Status status = Announce(*identity); !status.ok()) return status;
  serving_ = true;
  spdlog::info("Cluster {}, term {}: {} jobs; serving on {}; log in with {}/bootstrap", store_->cluster_id(),
               store_->term(), jobs, address(), options_.state_dir);
  spdlog::info("Evaluation records are signed by {}", signing_key_);
  return absl::OkStatus();
}

void Server::Stop() {
  serving_ = false;
  if (grpc_ != nullptr && grpc_->GetHealthCheckService() != nullptr) {
    grpc_->GetHealthCheckService()->SetServingStatus(false);
  }
  if (hub_) hub_->Shutdown();
  if (rendezvous_) rendezvous_->Shutdown();
  if (record_writer_) record_writer_->Shutdown();
  if (collector_) collector_->Shutdown();
  if (loop_) loop_->Stop();
  if (grpc_ != nullptr) {
    grpc_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(options_.limits.shutdown_grace));
    grpc_->Wait();
  }
}

void Server::WhenAlive(std::function<void()> alive) {
  loop_->Inspect([alive = std::move(alive)](const absl::StatusOr<CoordinatorLoop::View>& view) {
    if (view.ok()) alive();
  });
}

void Server::StartLoop(Store::Contents contents) {
  hub_.emplace(options_.limits, &clock_, WatchTokens(store_->log_epoch()),
               [this](const std::string& job, int64_t after, int limit, size_t bytes) {
                 return store_->ReadLog(job, after, limit, bytes);
               });
  rendezvous_.emplace(RendezvousTable::Bounds{.keys = options_.limits.rendezvous_keys,
                                              .bytes = options_.limits.rendezvous_bytes,
                                              .total_bytes = options_.limits.rendezvous_total_bytes});
  CoordinatorLoop::Options loop{store_->cluster_id(),      store_->term(),      options_.lease,
                                options_.heartbeat,        options_.hang_bound, options_.terminate_grace,
                                options_.keep_checkpoints, options_.limits};
  CoordinatorLoop::Parts parts{store_.get(),
                               &policy_,
                               &clock_,
                               &*hub_,
                               &*rendezvous_,
                               &snapshot_,
                               [this] { return jitter_(random_); },
                               [this](EvaluationRecord record, std::function<void(absl::StatusOr<std::string>)> done) {
                                 record_writer_->Write(std::move(record), std::move(done));
                               }};
  loop_.emplace(loop, parts, std::move(contents));
}

void Server::StartCollector() {
  const auto rows = [this]() -> absl::StatusOr<std::vector<JobRow>> {
    const std::shared_ptr<const ClusterSnapshot> snapshot = snapshot_.Get();
    if (snapshot != nullptr && snapshot->store_failed) {  // the file may hold newer rows
      return absl::UnavailableError("the store has failed");
    }
    std::vector<JobRow> jobs;
    const absl::Status status = ReadAndWait(&*loop_, [&jobs](const CoordinatorLoop::View& view) {
      for (const auto& [name, row] : view.core().jobs()) jobs.push_back(row);
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    return jobs;
  };
  collector_.emplace(options_.limits, artifacts_.get(), rows,
                     [this](const std::string& job) { return store_->GetContent(job); });
  collector_->Start();
}

absl::Status Server::Listen(const Identity& identity) {
  const ServiceParts parts{&*authenticator_, &*loop_,          store_.get(), &*hub_,    &*rendezvous_,
                           &snapshot_,       artifacts_.get(), &*collector_, &streams_, signing_key_};
  jobs_.emplace(parts, options_.limits, NewJobId);
  cluster_.emplace(parts);
  workers_.emplace(parts, options_.limits);
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options_.listen, Credentials(identity), &port_);
  // Without SO_REUSEPORT a second server on the port is an error instead of a thief of every other call.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 20000);
  builder.SetMaxReceiveMessageSize(kMessageBytes);
  builder.RegisterService(&*jobs_);
  builder.RegisterService(&*cluster_);
  builder.RegisterService(&*workers_);
  grpc_ = builder.BuildAndStart();
  if (grpc_ == nullptr || port_ == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options_.listen,
                                               ": the port is in use or the address is not this host's; give another "
                                               "--listen"));
  }
  return absl::OkStatus();
}

absl::Status Server::ServeMetrics(const Identity& identity) {
  if (options_.metrics_listen.empty()) return absl::OkStatus();
  MetricSources sources{.snapshot = &snapshot_,
                        .clock = &clock_,
                        .streams = &streams_,
                        .waiting = [this] { return loop_->waiting(); },
                        .artifacts = artifacts_.get(),
                        .artifact_quota = options_.artifact_quota,
                        .state_dir = options_.state_dir,
                        .certificate_expiry = std::nullopt,
                        .job_series = options_.limits.job_series,
                        .serving = &serving_};
  if (!identity.server_certificate.empty()) {
    const absl::StatusOr<absl::Time> expiry = CertificateExpiry(identity.server_certificate);
    if (!expiry.ok()) return expiry.status();
    sources.certificate_expiry = *expiry;
  }
  absl::StatusOr<std::unique_ptr<MetricsExporter>> exporter =
      MetricsExporter::Start(options_.metrics_listen, std::move(sources));
  if (!exporter.ok()) return exporter.status();
  exporter_ = *std::move(exporter);
  return absl::OkStatus();
}

absl::Status Server::Announce(const Identity& identity) {
  const absl::Status status = WriteBootstrapFiles(options_.state_dir, identity, Endpoints(options_, port_));
  if (!status.ok() || options_.port_file.empty()) return status;
  const nlohmann::json ports = {{"listen", address()}, {"metrics", metrics_address()}};
  return WriteFileAtomically(options_.port_file, ports.dump() + "\n", 0644);
}

std::string Server::address() const { return absl::StrCat(HostOf(options_.listen), ":", port_); }

}  // namespace ham::server

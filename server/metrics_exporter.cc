#include "server/metrics_exporter.h"

#include <CivetServer.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/cluster_metrics.h"
#include "server/coordinator_loop.h"
#include "server/gpu_metrics.h"
#include "server/job_series.h"
#include "server/metric_families.h"
#include "server/metric_text.h"
#include "server/process_metrics.h"

namespace ham::server {
namespace {

void Answer(mg_connection* connection, const char* status, const char* type, const std::string& body) {
  const std::string head = absl::StrCat("HTTP/1.1 ", status, "\r\nContent-Type: ", type,
                                        "\r\nContent-Length: ", body.size(), "\r\nConnection: close\r\n\r\n");
  mg_write(connection, head.data(), head.size());
  mg_write(connection, body.data(), body.size());
}

void AddServerFamilies(const MetricSources& sources, MetricFamilies* families) {
  MetricFamily streams = Family("ham_streams", "Open streams: control and report of workers, watch of clients.");
  const auto add = [&streams](const char* kind, const std::atomic<int64_t>& count) {
    AddMetric(&streams, {{"kind", kind}}, static_cast<double>(count.load(std::memory_order_relaxed)));
  };
  add("control", sources.streams->control);
  add("report", sources.streams->report);
  add("watch", sources.streams->watch);
  families->push_back(std::move(streams));
  families->push_back(Scalar("ham_core_queue_events", "Requests that wait for the core's thread.",
                             static_cast<double>(sources.waiting())));
  if (sources.certificate_expiry) {
    families->push_back(Scalar("ham_certificate_expiry_timestamp_seconds", "When the server's certificate ends.",
                               absl::ToDoubleSeconds(*sources.certificate_expiry - absl::UnixEpoch())));
  }
  families->push_back(Scalar("ham_artifact_bytes", "Checkpoints, weights and records on the coordinator's disk.",
                             static_cast<double>(sources.artifacts->Bytes())));
  if (sources.artifact_quota != 0) {
    families->push_back(Scalar("ham_artifact_quota_bytes", "The most that they may have.",
                               static_cast<double>(sources.artifact_quota)));
  }
}

}  // namespace

std::string ScrapeText(const MetricSources& sources) {
  const std::shared_ptr<const ClusterSnapshot> snapshot = sources.snapshot->Get();
  const absl::Duration now = sources.clock->Read().steady;
  MetricFamilies families;
  AddClusterFamilies(*snapshot, now, &families);
  AddWorkerFamilies(*snapshot, now, &families);
  AddGpuFamilies(*snapshot, &families);
  AddJobFamilies(*snapshot, sources.job_series, &families);
  AddServerFamilies(sources, &families);
  AddDiskFamilies(sources.state_dir, &families);
  AddProcessFamilies(&families);
  return MetricText(families);
}

absl::Status Readiness(const MetricSources& sources) {
  if (!*sources.serving) return absl::UnavailableError("the coordinator starts or stops; try again in a moment");
  return sources.snapshot->Get()->store_failed ? StoreFailed() : absl::OkStatus();
}

class MetricsExporter::Pages {
 public:
  explicit Pages(MetricSources sources) : sources_(std::move(sources)) {}

  void AddTo(CivetServer* server) {
    server->addHandler("/metrics", metrics_);
    server->addHandler("/healthz", health_);
    server->addHandler("/readyz", readiness_);
  }

 private:
  // A page by GET.
  class Page : public CivetHandler {
   public:
    explicit Page(std::function<void(mg_connection*)> get) : get_(std::move(get)) {}
    bool handleGet(CivetServer*, mg_connection* connection) override {
      get_(connection);
      return true;
    }

   private:
    const std::function<void(mg_connection*)> get_;
  };

  const MetricSources sources_;
  Page metrics_{[this](mg_connection* connection) {
    Answer(connection, "200 OK", "text/plain; version=0.0.4; charset=utf-8", ScrapeText(sources_));
  }};
  Page health_{[](mg_connection* connection) { Answer(connection, "200 OK", "text/plain; charset=utf-8", "ok\n"); }};
  Page readiness_{[this](mg_connection* connection) {
    const absl::Status status = Readiness(sources_);
    Answer(connection, status.ok() ? "200 OK" : "503 Service Unavailable", "text/plain; charset=utf-8",
           status.ok() ? "ok\n" : absl::StrCat(std::string(status.message()), "\n"));
  }};
};

MetricsExporter::MetricsExporter() = default;
MetricsExporter::~MetricsExporter() = default;

absl::StatusOr<std::unique_ptr<MetricsExporter>> MetricsExporter::Start(const std::string& address,
                                                                        MetricSources sources) {
  std::unique_ptr<MetricsExporter> exporter(new MetricsExporter);
  exporter->pages_ = std::make_unique<Pages>(std::move(sources));
  try {
    // Threads beyond one scrape, so that probes are answered while somebody reads a page slowly.
    exporter->server_ = std::make_unique<CivetServer>(
        std::vector<std::string>{"listening_ports", address, "num_threads", "4", "request_timeout_ms", "10000"});
    exporter->pages_->AddTo(exporter->server_.get());
    const std::vector<int> ports = exporter->server_->getListeningPorts();
    if (ports.empty()) throw CivetException("no port");
    exporter->address_ = absl::StrCat(address.substr(0, address.rfind(':')), ":", ports.front());
  } catch (const std::exception&) {
    return absl::UnavailableError(absl::StrCat("cannot serve metrics on ", address,
                                               ": the address is in use or not of this host; choose another "
                                               "--metrics-listen, or \"\" for none"));
  }
  return exporter;
}

}  // namespace ham::server

"""The coordinator itself: is it well, is it fast, will it go on."""
from .panels import BYTES, COUNT, NUMBER, RATIO, SECONDS, Query, board, each_interval, lines, number, rows, variable

HERE = '{instance="$instance"}'
SCRAPE = '{instance="$instance", job="ham"}'

VARIABLES = [variable("instance", "Coordinator", "label_values(ham_build_info, instance)")]

CONTENTS = [
    number("Answers", "Whether Prometheus reaches the coordinator.", Query(f"up{SCRAPE}"),
           texts={0: ("no", "red"), 1: ("yes", "green")}),
    number("Store", "Read-only after a failed write until it can write again.", Query(f"ham_store_failed{HERE}"),
           texts={0: ("writes", "green"), 1: ("failed", "red")}),
    number("Leases", "Frozen while so many workers are silent that the coordinator suspects itself.",
           Query(f"ham_leases_frozen{HERE}"), texts={0: ("count", "green"), 1: ("frozen", "red")}),
    number("Certificate", "Time until the server certificate expires.",
           Query(f"ham_certificate_expiry_timestamp_seconds{HERE} - time()"), unit=SECONDS,
           steps=[(None, "red"), (30 * 86400, "green")]),
    number("Runs for", "Since the coordinator started.", Query(f"time() - process_start_time_seconds{SCRAPE}"),
           unit=SECONDS),
    number("Build", "Version and build of the coordinator.", Query(f"ham_build_info{HERE}", "{{version}} {{build_id}}"),
           show_name=True),
    rows("Alerts", "Alerts of deploy/prometheus that fire or are about to.",
         ["alertname", "alertstate", "severity", "job", "worker"], [
        (None, Query('max by (alertname, alertstate, severity, job, worker) (ALERTS{alertname=~"Ham.*"})'), COUNT)],
         height=6),
    "Store and disk",
    lines("Transactions", "Written a second.", Query(f"rate(ham_store_commits_total{HERE}[$__rate_interval])", "written"),
          Query(f"rate(ham_store_failed_commits_total{HERE}[$__rate_interval])", "failed"), unit=NUMBER, width=8),
    lines("Time of a transaction", "Mean of five minutes; most of it is the disk's.",
          Query(f"instance:ham_store_commit_seconds:mean5m{HERE}", "transaction"), unit=SECONDS, width=8),
    lines("Time of a batch", "Mean time in which the core takes what has arrived, with its transaction.",
          Query(f"instance:ham_core_batch_seconds:mean5m{HERE}", "batch"), unit=SECONDS, width=8),
    lines("Waiting for the core", "Requests, beats and reports; more than 4,096 are refused.",
          Query(f"ham_core_queue_events{HERE}", "waiting"), width=8),
    lines("Disk of the state directory", "Free, of all.",
          Query(f"ham_state_bytes_free{HERE} / ham_state_bytes{HERE}", "free"), unit=RATIO, most=1, width=8),
    lines("Artifacts", "Checkpoints, weights and records; the quota where there is one.",
          Query(f"ham_artifact_bytes{HERE}", "held"), Query(f"ham_artifact_quota_bytes{HERE}", "quota"), unit=BYTES,
          width=8),
    "Clients and workers",
    lines("Open streams", "Control streams and reports of workers, watches of clients.",
          Query(f"ham_streams{HERE}", "{{kind}}"), steps=True),
    lines("Events", "What became of jobs, in each interval.",
          Query(each_interval("reason", f"ham_job_events_total{HERE}") + " > 0", "{{reason}}"), bars=True),
    lines("Longest silence", "Of the connected workers; at the lease their ranks are given up.",
          Query(f"max by (instance) (ham_worker_beat_age_seconds{HERE} and on (instance, worker) ham_worker_connected == 1)",
                "silence"),
          Query(f"ham_lease_seconds{HERE}", "lease"), unit=SECONDS),
    lines("Series of jobs", "Time series of jobs that the coordinator exposes, and those beyond its bound.",
          Query(f"ham_job_series{HERE}", "exposed"), Query(f"ham_job_series_left_out{HERE}", "left out")),
    "Process",
    lines("Memory", "Of the coordinator's process.", Query(f"process_resident_memory_bytes{SCRAPE}", "resident"),
          unit=BYTES, width=6),
    lines("CPU", "Cores in use.", Query(f"rate(process_cpu_seconds_total{SCRAPE}[$__rate_interval])", "cores"),
          unit=NUMBER, width=6),
    lines("Open files", "Descriptors.", Query(f"process_open_fds{SCRAPE}", "open"), width=6),
    lines("Scrape", "Time of one scrape.", Query(f"scrape_duration_seconds{SCRAPE}", "scrape"), unit=SECONDS, width=6),
]

BOARD = board("ham-operations", "ham: operations", "Health of the coordinator: store, disk, streams, leases, process.",
              VARIABLES, CONTENTS)

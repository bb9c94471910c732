"""Who is there, what runs, what waits."""
from .panels import (ACCURACY, COUNT, RATIO, SECONDS, Query, board, each_interval, lines, number, rows, states,
                     variable)

OF_JOBS = '* on (instance, job) group_left (project, method, data_set) ham_job_info{project=~"$project"}'
FAILURES = "WORKER_LOST|HANG|TRAINER_CRASH|INFRASTRUCTURE|USER|RANK_DOES_NOT_END|CHECKPOINT_DAMAGED"


def of_jobs(expr):
    """One value a job: the least, so that of several suites the hardest counts."""
    return Query(f"min by (job) ({expr} {OF_JOBS})")


VARIABLES = [
    variable("project", "Project", "label_values(ham_job_info, project)", several=True),
    variable("worker", "Worker", "label_values(ham_worker_connected, worker)", several=True),
]

CONTENTS = [
    number("Workers", "Workers that are connected.", Query('sum(ham_workers{state="CONNECTED"})')),
    number("Silent or excluded", "Workers that are unreachable, or get no ranks because attempts failed on them.",
           Query('sum(ham_workers{state=~"UNREACHABLE|EXCLUDED"})'), steps=[(None, "text"), (1, "orange")]),
    number("Slots busy", "Share of the slots of connected workers that belong to an attempt.",
           Query('sum(instance_state:ham_slots:sum{state="BUSY"}) / sum(instance_state:ham_slots:sum)'), unit=RATIO),
    number("Jobs running", "Jobs that have slots.",
           Query('sum(ham_jobs{state=~"STARTING|RUNNING|PAUSING|PREEMPTING|CANCELLING"})')),
    number("Jobs waiting", "Jobs that wait for slots.", Query("sum(ham_queue_jobs)")),
    number("Oldest waits", "How long the oldest of them has waited.", Query("max(ham_queue_oldest_seconds)"),
           unit=SECONDS),
    "Jobs",
    rows("Jobs", "Jobs that run or ended within five minutes. Of several attack suites the hardest counts.",
         ["job", "state", "project", "method", "data_set"], [
        (None, Query(f"max by (job, state, project, method, data_set) (ham_job_state {OF_JOBS})"), COUNT),
        ("Attempt", of_jobs("ham_job_attempt"), COUNT),
        ("Epoch", of_jobs("ham_job_epoch"), COUNT),
        ("Robust, average", of_jobs("ham_job_robust_accuracy_ratio"), ACCURACY),
        ("Robust, worst class", of_jobs("job_suite_split:ham_job_worst_class_robust_accuracy_ratio:min"), ACCURACY),
        ("Hard share", of_jobs("ham_job_hard_share_ratio"), RATIO),
        ("Images/s", of_jobs("ham_job_images_per_second"), COUNT),
    ]),
    lines("Jobs by state", "All jobs that the coordinator keeps, without those that ended.",
          Query('sum by (state) (ham_jobs{state!~"SUCCEEDED|FAILED|CANCELLED"})', "{{state}}"), stacked=True),
    lines("Waiting for slots", "Age of the oldest job that waits; all wait behind it.",
          Query("max(ham_queue_oldest_seconds)", "oldest"), unit=SECONDS),
    lines("Attempts", "Attempts that began, and what ended others, in each interval.",
          Query(each_interval("instance", "ham_job_attempts_total"), "started"),
          Query(each_interval("reason", f'ham_job_events_total{{reason=~"{FAILURES}"}}') + " > 0", "{{reason}}"),
          bars=True),
    lines("Training speed", "Training images a second of all jobs.",
          Query(f"sum by (method) (ham_job_images_per_second {OF_JOBS})", "{{method}}"), stacked=True),
    "Workers",
    lines("Slots", "Slots of connected workers by device.",
          Query("sum by (device, state) (ham_slots)", "{{device}} {{state}}"), stacked=True),
    states("Connected", "Whether a worker's stream to the coordinator is open.",
           Query('ham_worker_connected{worker=~"$worker"}', "{{worker}}"), {0: ("away", "red"), 1: ("here", "green")}),
    lines("Silence", "Seconds since the last beat of a connected worker. At the lease its ranks are given up.",
          Query('ham_worker_beat_age_seconds{worker=~"$worker"} and on (instance, worker) ham_worker_connected == 1',
                "{{worker}}"),
          Query("max(ham_lease_seconds)", "lease"), unit=SECONDS),
    lines("Slots busy by worker", "Share of a worker's slots that belong to an attempt.",
          Query('sum by (worker) (ham_worker_slots{worker=~"$worker", state="BUSY"})'
                ' / sum by (worker) (ham_worker_slots{worker=~"$worker"})', "{{worker}}"), unit=RATIO, most=1),
    rows("Builds", "Builds and states of workers; the ranks of a job need one build.", ["worker", "state", "build_id"], [
        (None, Query('max by (worker, build_id, state) (ham_worker_info{worker=~"$worker"})'), COUNT)]),
]

BOARD = board("ham-cluster", "ham: cluster", "Workers, slots, queue and jobs.", VARIABLES, CONTENTS)

"""One job: how robust it is, on average and in the worst class, and what it does."""
from .panels import (COUNT, RATIO, SECONDS, Query, board, gauges, heat_map, lines, moments, number,
                     variable)

OF_JOB = '{job="$job"}'
OF_SUITE = '{job="$job", suite="$suite"}'
WORST = "job_suite_split:ham_job_worst_class_robust_accuracy_ratio:min"

VARIABLES = [
    variable("project", "Project", "label_values(ham_job_info, project)", several=True),
    variable("job", "Job", 'label_values(ham_job_info{project=~"$project"}, job)'),
    variable("suite", "Attack suite", f"label_values(ham_job_robust_accuracy_ratio{OF_JOB}, suite)"),
]

CONTENTS = [
    number("State", "Of the job.", Query(f"ham_job_state{OF_JOB}", "{{state}}"), show_name=True),
    number("Robust average", "Share of the images that are right under the attack suite.",
           Query(f"min(ham_job_robust_accuracy_ratio{OF_SUITE})"), unit=RATIO),
    number("Robust worst class", "The same of the class in which it is lowest.", Query(f"min({WORST}{OF_SUITE})"),
           unit=RATIO, steps=[(None, "red"), (0.1, "orange"), (0.2, "green")]),
    number("Which class", "The class in which robust accuracy is lowest.",
           Query(f"ham_job_worst_class_robust_accuracy_ratio{OF_SUITE}", "{{class}}"), show_name=True),
    number("Overfits", "Robustness on held-out images fell while that on training images rose.",
           Query(f"max(ham_job_robust_overfitting{OF_JOB})"), texts={0: ("no", "green"), 1: ("yes", "red")}),
    number("Since submission", "Until now, or to its end.",
           Query(f"max(ham_job_end_timestamp_seconds{OF_JOB} or (0 * ham_job_submit_timestamp_seconds{OF_JOB} + time()))"
                 f" - max(ham_job_submit_timestamp_seconds{OF_JOB})"), unit=SECONDS),
    "Robustness",
    lines("Robust average and worst class", "Under the attack suite, with the accuracy on clean images.",
          Query(f"ham_job_robust_accuracy_ratio{OF_SUITE}", "average ({{split}})"),
          Query(f"{WORST}{OF_SUITE}", "worst class ({{split}})"),
          Query(f"ham_job_clean_accuracy_ratio{OF_JOB}", "clean ({{split}})"), unit=RATIO, most=1, steps=True, width=24),
    heat_map("Robust accuracy by class", "A row a class, a cell a moment.",
             Query(f"max by (class) (ham_job_class_robust_accuracy_ratio{OF_SUITE})", "{{class}}")),
    gauges("Classes now", "Robust accuracy of each class by the newest evaluation.",
           Query(f"sort(max by (class) (ham_job_class_robust_accuracy_ratio{OF_SUITE}))", "{{class}}"), height=10),
    "Training",
    lines("Hard share", "Rows that mining found still hard, of the rows seen; 1 while mining is off.",
          Query(f"ham_job_hard_share_ratio{OF_JOB}", "hard"), unit=RATIO, most=1),
    lines("Phases", "Shares of the phases in the time of rank 0's training steps.",
          Query(f"job_phase:ham_job_phase_seconds:share5m{OF_JOB}", "{{phase}}"), unit=RATIO, most=1, stacked=True),
    lines("Images a second", "Training images, all ranks together.",
          Query(f"ham_job_images_per_second{OF_JOB}", "images/s")),
    lines("Model FLOPS utilisation", "Useful floating-point operations, of what matrix products reach.",
          Query(f"ham_job_model_flops_utilization_ratio{OF_JOB}", "utilisation"), unit=RATIO, most=1),
    lines("Epoch", "Of the newest metrics.", Query(f"ham_job_epoch{OF_JOB}", "epoch"), steps=True),
    lines("Iterations and checkpoints", "What lies above the checkpoint is done again after a failure.",
          Query(f"ham_job_iteration{OF_JOB}", "iteration"),
          Query(f"ham_job_checkpoint_iteration{OF_JOB}", "newest checkpoint"), steps=True),
    lines("Attempts", "Attempts begun, and those that failed since the last checkpoint.",
          Query(f"ham_job_attempt{OF_JOB}", "attempts"),
          Query(f"ham_job_failed_attempts{OF_JOB}", "failed since the checkpoint"), steps=True, width=24),
    "Evaluation jobs",
    lines("Images left by stage", "Images of an evaluation job that have not got through an attack.",
          Query(f"ham_job_evaluation_rows_left{OF_JOB}", "{{stage}}"), steps=True),
    lines("Time left", "Upper bound, until an evaluation job's last image is attacked.",
          Query(f"ham_job_evaluation_seconds_left{OF_JOB}", "left"), unit=SECONDS),
]

BOARD = board("ham-job", "ham: job", "One job: robustness on average and in the worst class, training, attempts.",
              VARIABLES, CONTENTS,
              [moments("New attempt", f"changes(ham_job_attempt{OF_JOB}[$__rate_interval]) > 0", "orange")])

"""Training methods side by side: what the worst class gains and what the average pays."""
from .panels import ACCURACY, COUNT, RATIO, SECONDS, Query, board, gauges, lines, rows, variable

FILTER = '{project=~"$project", data_set="$data_set", method=~"$method"}'
OF_SUITE = '{suite="$suite", split="$split"}'
AVERAGE = f"ham_job_robust_accuracy_ratio{OF_SUITE}"
WORST = f"job_suite_split:ham_job_worst_class_robust_accuracy_ratio:min{OF_SUITE}"
CLEAN = 'ham_job_clean_accuracy_ratio{split="$split"}'


def joined(expr):
    return f"{expr} * on (instance, job) group_left (method) ham_job_info{FILTER}"


def last(expr):
    """The newest value of each job within the time range: jobs that have ended are there too."""
    return f"last_over_time({expr}[$__range]) * on (instance, job) group_left (method) last_over_time(ham_job_info{FILTER}[$__range])"


def of_job(expr):
    return Query(f"max by (job) ({last(expr)})")


def by_method(expr, legend="{{method}}"):
    return Query(f"avg by (method) ({expr})", legend)


VARIABLES = [
    variable("project", "Project", "label_values(ham_job_info, project)", several=True),
    variable("data_set", "Data set", 'label_values(ham_job_info{project=~"$project", kind="train"}, data_set)'),
    variable("method", "Method", 'label_values(ham_job_info{project=~"$project", data_set="$data_set", kind="train"}, method)',
             several=True),
    variable("suite", "Attack suite", "label_values(ham_job_robust_accuracy_ratio, suite)"),
    variable("split", "Images", 'label_values(ham_job_robust_accuracy_ratio{suite="$suite"}, split)'),
]

CONTENTS = [
    gauges("Robust average", "Mean over the jobs of a method, by their newest evaluations.", by_method(last(AVERAGE)),
           width=8),
    gauges("Robust worst class", "The same of the class that is worst in each job.", by_method(last(WORST)), width=8),
    gauges("Clean average", "Accuracy without an attack.", by_method(last(CLEAN)), width=8),
    rows("Jobs", "Newest evaluation of each job within the time range.", ["job", "method"], [
        (None, Query(f"max by (job, method) (last_over_time(ham_job_info{FILTER}[$__range]))"), COUNT),
        ("Robust, average", of_job(AVERAGE), ACCURACY),
        ("Robust, worst class", of_job(WORST), ACCURACY),
        ("Clean", of_job(CLEAN), ACCURACY),
        ("Hard share", of_job("ham_job_hard_share_ratio"), RATIO),
        ("Images/s", of_job("ham_job_images_per_second"), COUNT),
    ]),
    "While they train",
    lines("Robust average", "Mean over the jobs of a method.", by_method(joined(AVERAGE)), unit=RATIO, most=1, steps=True),
    lines("Robust worst class", "Mean over the jobs of a method of the class that is worst in each.",
          by_method(joined(WORST)), unit=RATIO, most=1, steps=True),
    "What they cost",
    lines("Hard share", "Rows that are attacked to the end and trained on, of the rows seen.",
          by_method(joined("ham_job_hard_share_ratio")), unit=RATIO, most=1, width=8),
    lines("Images a second", "Mean over the jobs of a method.", by_method(joined("ham_job_images_per_second")), width=8),
    lines("From submission to end", "Of jobs that have ended, with the time that they waited.",
          by_method(joined("(ham_job_end_timestamp_seconds - ham_job_submit_timestamp_seconds)")), unit=SECONDS, width=8,
          steps=True),
]

BOARD = board("ham-comparison", "ham: comparison of methods",
              "Methods side by side under one attack suite, on average and in the worst class.", VARIABLES, CONTENTS)

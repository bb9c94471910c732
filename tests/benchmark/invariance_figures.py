"""Figures of build/tests/invariance: ranks and resumed runs; part of topic engine."""
import functools
import json
import subprocess

from figure import Figure


@functools.lru_cache
def lines(root, what, count):
    command = [str(root / "build" / "tests" / "invariance"), what, str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def of_precision(root, precision):
    return [line for line in lines(root, "ranks", 100) if line["precision"] == precision]


def ranks_float64(root):
    found = of_precision(root, "fp64")
    how = "; ".join(f"{line['ranks']} ranks{', rows moved,' if line['balance_ranks'] else ''} "
                    f"{line['largest_difference']:.2g}" for line in found)
    empty = sum(line["ranks_without_row"] for line in found), sum(line["ranks_without_hard"] for line in found)
    return max(line["largest_difference"] for line in found), (
        f"weights and statistics after each of 100 steps against one rank, relative: {how}; ranks without a row "
        f"{empty[0]} times, without a hard one {empty[1]} times")


def masks_float64(root):
    found = of_precision(root, "fp64")
    return min(line["equal_masks"] for line in found), "steps of 100 in which all ranks together kept the same rows"


def first_step_float32(root):
    ratios = {line["ranks"]: line["first_step_error"] / line["first_step_error_of_one_rank"]
              for line in of_precision(root, "fp32") if "first_step_error" in line}
    growth = "; ".join(
        (f"{line['ranks']} ranks " if "threads" not in line else "1 rank, 2 threads ") +
        ", ".join(f"{line['growth'][step]:.1g}" for step in ("1", "10", "50", "100"))
        for line in of_precision(root, "fp32"))
    return max(ratios.values()), (
        "error of the first update against float64, in that of one rank; rounding then grows, after 1, 10, 50 and 100 "
        f"steps: {growth}")


def resumed(root):
    line = lines(root, "resume", 50)[0]
    return line["bit_equal"], (f"weights, averages and optimiser at the end of {line['iterations']} iterations, stopped at "
                               f"{line['stops']} random ones, seed {line['seed']}")


FIGURES = [
    Figure("float64 difference over 2, 3 and 4 ranks", 1e-10, "", False, ranks_float64),
    Figure("float64 steps with equal masks over ranks", 100, "", True, masks_float64),
    Figure("float32 first step over ranks, in the error of 1", 2, "", False, first_step_float32),
    Figure("resumed runs that are bit-equal, of 50", 50, "", True, resumed),
]

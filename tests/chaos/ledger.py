"""tests/chaos/ledger.tsv: one line a run, lines are only ever added."""
import collections
import dataclasses
import datetime
import pathlib
import subprocess

FILE = pathlib.Path(__file__).resolve().with_name("ledger.tsv")
COLUMNS = ["date", "seed", "commit", "mode", "seconds", "faults", "jobs", "digest", "result"]


@dataclasses.dataclass
class Run:
    seed: int
    mode: str        # "chaos", or what a row of trials kills
    seconds: int
    faults: dict     # counts by kind
    jobs: int        # that ended with the outcome of an undisturbed run
    digest: str      # of the outcomes of undisturbed runs
    result: str      # "ok", or what broke
    commit: str      # that the run began with
    date: str = ""   # of its end

    def line(self):
        faults = ",".join(f"{kind}={count}" for kind, count in sorted(self.faults.items()))
        return "\t".join([self.date, str(self.seed), self.commit, self.mode, str(self.seconds), faults, str(self.jobs),
                          self.digest[:16], " ".join(self.result.split())[:200]])


def current_commit():
    """Short hash of HEAD; with "+" where files that the programs are made of differ from it."""
    git = ["git", "-C", str(FILE.parents[2])]
    head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True)
    if head.returncode != 0:
        return "unknown"
    ours = ["client", "proto", "server", "worker"]
    changed = subprocess.run([*git, "status", "--porcelain", "--", *ours], capture_output=True, text=True).stdout
    return head.stdout.strip() + ("+" if changed else "")


def append(run, path):
    run.date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%MZ")
    new = not path.exists()
    with open(path, "a", encoding="utf-8") as out:
        if new:
            out.write("\t".join(COLUMNS) + "\n")
        out.write(run.line() + "\n")


def read(path=FILE):
    if not path.exists():
        return []
    runs = []
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        row = dict(zip(COLUMNS, line.split("\t"), strict=True))
        faults = dict(pair.split("=") for pair in row["faults"].split(",") if pair)
        runs.append(Run(seed=int(row["seed"]), mode=row["mode"], seconds=int(row["seconds"]),
                        faults={kind: int(count) for kind, count in faults.items()}, jobs=int(row["jobs"]),
                        digest=row["digest"], result=row["result"], date=row["date"], commit=row["commit"]))
    return runs


def totals(runs):
    """Counts by (mode, kind of fault) of the runs in which nothing broke."""
    sums = collections.Counter()
    for run in runs:
        if run.result == "ok":
            for kind, count in run.faults.items():
                sums[run.mode, kind] += count
    return sums

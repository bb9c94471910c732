"""The GPU checks, stage by stage; called by run.sh, which says how."""
import argparse
import ctypes
import datetime
import importlib.util
import json
import lzma
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time

from service import service

BUNDLE = pathlib.Path(__file__).resolve().parents[2]
DATA_FILES = [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]
WRONG_CALL, NO_GPU = 2, 3


def find_gpu():
    """What the driver says of the first GPU, or the sentence that says why there is none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None, "there is no NVIDIA driver on this host"
    device, count, version, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return None, "there is no NVIDIA GPU that this process may use"
    name = ctypes.create_string_buffer(100)
    major, minor = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    for value, attribute in ((major, 75), (minor, 76)):  # of the compute capability
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return {"name": name.value.decode(), "memory_bytes": memory.value, "gpus": count.value,
            "compute_capability": f"{major.value}.{minor.value}", "driver": driver_version(),
            "driver_cuda": f"{version.value // 1000}.{version.value % 1000 // 10}"}, None


def driver_version():
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return "unknown"
    text = ctypes.create_string_buffer(100)
    known = nvml.nvmlInit_v2() == 0 and nvml.nvmlSystemGetDriverVersion(text, len(text)) == 0
    return text.value.decode() if known else "unknown"


def torch_libraries():
    """The folders of the libraries that the programs of this bundle need, found without loading PyTorch."""
    found = importlib.util.find_spec("torch")
    torch = pathlib.Path(found.submodule_search_locations[0]) if found else None
    if torch is None:
        return None, f"{sys.executable} has no PyTorch: install torch 2.11.0, or name another Python by PYTHON"
    if "2.11.0" not in (torch / "version.py").read_text():
        return None, f"{torch} is not PyTorch 2.11.0, which this bundle was linked with"
    return [torch / "lib", *sorted(torch.parent.glob("nvidia/*/lib"))], None


class Failed(Exception):
    """A stage, or a program of one; its message goes into the results."""


class Run:
    """One call of run.sh."""

    def __init__(self, options, device, libraries):
        self.out = options.out.resolve()
        path = [BUNDLE / "lib", *libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        # Of our programs; Python finds PyTorch's libraries by itself.
        self.environment = os.environ | {"LD_LIBRARY_PATH": ":".join(map(str, path))}
        self.programs = BUNDLE / "bin"
        self.rehearse, self.rounds, self.comparisons = options.rehearse, options.rounds, options.comparisons
        self.end = time.monotonic() + options.seconds
        self.specs = BUNDLE / "specs" / "rehearsal" if self.rehearse else BUNDLE / "specs"
        self.data_root = self.prepare_data(options.data)
        # Of a network with a usual share of hard rows, once there is one: perhaps from a call before.
        made = self.out / "ham.safetensors"
        self.weights = made if made.exists() and not self.rehearse else None
        commit = (BUNDLE / "COMMIT").read_text().strip()
        self.results = {"commit": commit, "device": device, "rehearsal": self.rehearse,
                        "host": {"cpus": os.cpu_count(), "python": platform.python_version()},
                        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                        "stages": {}}

    def prepare_data(self, source):
        """A data root, with the files unpacked."""
        folder = self.out / "data" / "cifar-10"
        folder.mkdir(parents=True, exist_ok=True)
        for name in DATA_FILES:
            plain, packed = source / name, source / f"{name}.xz"
            if plain.exists():
                shutil.copyfile(plain, folder / name)
            elif packed.exists():
                with lzma.open(packed) as stream, open(folder / name, "wb") as file:
                    shutil.copyfileobj(stream, file)
            else:
                print(f"run.sh: {source} holds neither {name} nor {name}.xz: DATA is CIFAR-10's binary version",
                      file=sys.stderr)
                sys.exit(WRONG_CALL)
        return folder.parent

    def seconds_left(self, limit):
        return max(1, min(limit, self.end - time.monotonic()))

    def program(self, name, *arguments):
        return [str(part) for part in (self.programs / name, *arguments)]

    def call(self, log, command, limit, **environment):
        """Standard output of a program that must end well; its errors go to OUT/log."""
        limit = self.seconds_left(limit)
        with open(self.out / log, "w") as errors:
            try:
                done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, timeout=limit,
                                      env=self.environment | environment)
            except subprocess.TimeoutExpired:
                raise Failed(f"{log}: not done after {limit:.0f} s") from None
        if done.returncode != 0:
            raise Failed(f"{log}: exit status {done.returncode}: {last_line(self.out / log)}")
        return done.stdout

    def save(self):
        path = self.out / "results.json"
        path.with_suffix(".new").write_text(json.dumps(self.results, indent=1) + "\n")
        path.with_suffix(".new").rename(path)


def last_line(path):
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else "nothing on standard error"


def correctness(run):
    """gpu_test; without a GPU the part that needs none."""
    report = run.out / "gpu_test.json"
    wanted = "--gtest_filter=-*Gpu*" if run.rehearse else "--gtest_filter=*"
    failure = None
    try:
        run.call("gpu_test.log", run.program("gpu_test", wanted, "--gtest_brief=1"), 300, GTEST_OUTPUT=f"json:{report}")
    except Failed as error:
        failure = str(error)
    if not report.exists():
        raise Failed(failure or "gpu_test wrote no report")
    tests = []
    for suite in json.loads(report.read_text())["testsuites"]:
        for test in suite["testsuite"]:
            tests.append({"name": f"{suite['name']}.{test['name']}", "seconds": float(test["time"].rstrip("s")),
                          "failures": [found["failure"] for found in test.get("failures", [])],
                          "skipped": test["result"] == "SKIPPED"} | measured_by(test))
    bad = [test["name"] for test in tests if test["failures"] or test["skipped"]]
    outcome = {"tests": tests}
    if bad or failure or not tests:
        outcome["failed"] = f"failed or skipped: {', '.join(bad)}" if bad else failure or "no test ran"
    return outcome


def measured_by(test):
    """What a test recorded beside its outcome."""
    known = {"name", "file", "line", "status", "result", "timestamp", "time", "classname", "failures", "value_param",
             "type_param", "skipped"}
    return {"measured": {key: value for key, value in test.items() if key not in known}}


def epochs(run):
    """Three epochs of PGD-AT from scratch, then three of HAM from these weights, on real images."""
    outcome = {}
    weights = None
    for method in ("pgd-at", "ham"):
        work = run.out / f"epochs-{method}"
        start = ["--initial-weights", weights] if weights else []
        lines = run.call(f"epochs-{method}.log", run.program(
            "ham-trainer-cuda", "--spec", run.specs / f"epochs-{method}.json", "--data-root", run.data_root, "--work-dir",
            work, "--json", *start), 400).splitlines()
        points = [json.loads(line) for line in lines]
        trained = [point["train"] for point in points if point.get("train", {}).get("end_of_epoch")]
        evaluated = [point["evaluation"] for point in points if "evaluation" in point]
        weights = run.out / f"{method}.safetensors"
        last = max((work / "checkpoints").glob("epoch-*"))
        run.call(f"export-{method}.log", run.program("ham-trainer-cuda", "export", last, weights), 60)
        outcome[method] = {
            "images_per_second": [train["images_per_second"] for train in trained],
            "hard_share": [train["hard_share"] for train in trained],
            "loss": [train["loss"] for train in trained],
            "evaluations": [{key: evaluation[key] for key in ("split", "rows", "clean_accuracy", "evaluation_seconds")}
                            | {"robust_accuracy": evaluation["suites"][0]["robust_accuracy"]} for evaluation in evaluated]}
    if not run.rehearse:
        run.weights = weights
    return outcome


def evaluation(run):
    """PGD-20 on all test images, proposed in bf16 and in fp32, of one network: robust accuracy, by fp32 forwards."""
    weights = run.out / "ham.safetensors"
    if not weights.exists():
        raise Failed("there is no network: epochs comes before evaluation")
    outcome = {}
    for precision in ("bf16", "fp32"):
        lines = run.call(f"evaluation-{precision}.log", run.program(
            "ham-trainer-cuda", "--spec", run.specs / f"evaluation-{precision}.json", "--data-root", run.data_root,
            "--work-dir", run.out / f"evaluation-{precision}", "--initial-weights", weights, "--json"), 200).splitlines()
        found = next(point["evaluation"] for point in map(json.loads, lines) if "evaluation" in point)
        outcome[precision] = {key: found[key] for key in ("rows", "clean_accuracy", "evaluation_seconds")} | {
            "robust_accuracy": found["suites"][0]["robust_accuracy"]}
    return outcome


def autoattack(run):
    """AutoAttack on all test images, proposed in bf16, of the network of epochs: what each attack took and left."""
    weights = run.out / "ham.safetensors"
    if not weights.exists():
        raise Failed("there is no network: epochs comes before autoattack")
    model = json.loads((run.specs / "epochs-ham.json").read_text())["train"]["model"]["name"]
    record = run.out / "autoattack.json"
    small = ["--rows", 20, "--attacks", "apgd:steps=3,apgd-t:steps=2:targets=2,fab-t:steps=2:targets=2,square:steps=9",
             "--device", "cpu"]
    begin = time.monotonic()
    run.call("autoattack.log", run.program(
        "ham-trainer-cuda", "evaluate", "--weights", weights, "--model", model, "--data", "cifar-10", "--data-root",
        run.data_root, "--epsilon", "8/255", "--precision", "bf16", "--record", record, "--json",
        *(small if run.rehearse else ["--device", "cuda"])), 240)
    seconds = time.monotonic() - begin
    content = json.loads(record.read_text())["record"]
    effects = content["figures"]["attacks"]
    return {"wall_seconds": seconds, "rows": content["data"]["rows"], "device": content["device"],
            "clean_accuracy": content["figures"]["clean_accuracy"]["value"],
            "attacks": [{key: attack[key] for key in ("name", "seconds", "rows_tried", "rows_broken", "forward_passes",
                                                      "gradient_passes")}
                        | {"robust_accuracy": effect["robust_accuracy"],
                           "worst_class_robust_accuracy": effect["worst_class_robust_accuracy"]}
                        for attack, effect in zip(content["attacks"], effects)]}


class Stepper:
    """A program that does steps when told, by lines: gpu_steps or peers.py."""

    def __init__(self, run, name, command, environment):
        self.run, self.name = run, name
        self.log = run.out / f"steps-{name}.log"
        with open(self.log, "w") as errors:
            self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)

    def ask(self, steps, limit):
        limit = self.run.seconds_left(limit)
        watchdog = threading.Timer(limit, self.process.kill)
        watchdog.start()
        try:
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        late = not watchdog.is_alive()
        watchdog.cancel()
        if not line:
            raise Failed(f"{self.name}: not done after {limit:.0f} s" if late else f"{self.name}: {last_line(self.log)}")
        return json.loads(line)

    def stop(self):
        self.process.kill()
        self.process.wait()


# What is timed side by side: our jobs, and the peers with the masks that our first job recorded ("replayed") or with
# their own ("live"). A WRN of 34 layers needs no peer: its goal is a share of the peak.
COMPARISONS = [
    {"name": "ham-128", "jobs": ["ham-128-bf16", "ham-128-fp32"], "batch": 128,
     "replayed": ["published", "tuned", "compiled"], "live": ["published", "tuned"]},
    {"name": "pgd-at-128", "jobs": ["pgd-at-128-bf16", "pgd-at-128-fp32"], "batch": 128,
     "live": ["published", "grouped", "tuned"]},
    {"name": "ham-512", "jobs": ["ham-512-bf16", "ham-512-fp32"], "batch": 512, "replayed": ["published", "tuned"]},
    {"name": "ham-1024", "jobs": ["ham-1024-bf16", "ham-1024-fp32"], "batch": 1024, "replayed": ["published", "tuned"]},
    {"name": "wrn-pgd-at-128", "jobs": ["wrn-pgd-at-128-bf16"], "batch": 128},
]
REHEARSAL = [{"name": "rehearsal", "jobs": ["ham-128-bf16", "ham-128-fp32"], "batch": 16,
              "replayed": ["published", "tuned"]}]


def peer_command(run, comparison, program, masks):
    ham = comparison["name"].startswith(("ham", "rehearsal"))
    command = [sys.executable, BUNDLE / "tests" / "gpu" / "peers.py", program, "--data", run.data_root / "cifar-10",
               "--batch", comparison["batch"], "--method", "ham" if ham else "pgd-at"]
    if masks:
        command += ["--masks", masks]
    if run.weights:
        command += ["--weights", run.weights]
    if run.rehearse:
        command += ["--device", "cpu", "--width", 8, "--steps", 2, "--mining-step", 1]
    return command


def start_programs(run, comparison):
    """(name, Stepper) of each, warmed up, and what could not be started: name -> why. The first job's masks are
    recorded on the way."""
    ready, failures = [], {}

    def warm_up(stepper, steps=12):
        try:
            answer = stepper.ask(2 if run.rehearse else steps, 240)
            ready.append((stepper.name, stepper))
            return answer
        except Failed as error:
            stepper.stop()
            failures[stepper.name] = str(error)
            return None

    masks = None
    for job in comparison["jobs"]:
        weights = ["--weights", run.weights] if run.weights and "wrn" not in job else []
        answer = warm_up(Stepper(run, job, run.program(
            "gpu_steps", "--spec", run.specs / f"{job}.json", "--data-root", run.data_root, *weights), run.environment), steps=40)  # which record what later ones replay
        if answer and masks is None:
            masks = run.out / f"masks-{comparison['name']}.json"
            masks.write_text(json.dumps(answer["masks"]))
    # All load PyTorch at the same time.
    peers = [Stepper(run, f"{program}-live", peer_command(run, comparison, program, None), None)
             for program in comparison.get("live", [])]
    for program in comparison.get("replayed", []):
        if masks:
            peers.append(Stepper(run, f"{program}-replayed", peer_command(run, comparison, program, masks), None))
        else:
            failures[f"{program}-replayed"] = "no masks were recorded"
    for stepper in peers:
        warm_up(stepper)
    return ready, failures


def compare(run, comparison):
    """Speeds, in rounds in which each program has its turn."""
    ready, failures = start_programs(run, comparison)
    rounds, turn_seconds = (1, 0) if run.rehearse else (run.rounds, 1.0)
    measured = {name: [] for name, _ in ready}
    steps = {}
    try:
        for round in range(-1, rounds):  # the first one says how many steps make a turn
            for name, stepper in ready:
                if name in failures:
                    continue
                try:
                    answer = stepper.ask(steps.get(name, 1), 60)
                except Failed as error:
                    failures[name] = str(error)
                    continue
                if round < 0:
                    steps[name] = max(1, round_up(turn_seconds / answer["seconds"]))
                else:
                    measured[name].append(answer)
    finally:
        for _, stepper in ready:
            stepper.stop()
    out = {name: summary(answers) for name, answers in measured.items() if answers}
    for name, why in failures.items():
        out[name] = {"failed": why}
    return out


def round_up(number):
    return int(number) + 1


def summary(answers):
    speeds = [answer["rows"] / answer["seconds"] for answer in answers]
    return {"images_per_second": statistics.median(speeds), "lowest": min(speeds), "highest": max(speeds),
            "rounds": len(speeds), "hard_share": sum(a["hard_rows"] for a in answers) / sum(a["rows"] for a in answers),
            "syncs_in_a_step": answers[-1]["syncs"], "peak_bytes": answers[-1]["peak_bytes"]}


def benchmarks(run):
    outcome, failed = {}, []
    for comparison in REHEARSAL if run.rehearse else COMPARISONS:
        if run.comparisons and comparison["name"] not in run.comparisons:
            continue
        outcome[comparison["name"]] = found = {"programs": compare(run, comparison), "profiles": {}}
        failed += [name for name, measured in found["programs"].items() if "failed" in measured]
        for job in comparison["jobs"]:
            try:
                line = run.call(f"bench-{job}.log", run.program(
                    "ham-trainer-cuda", "bench", "--spec", run.specs / f"{job}.json", "--data-root", run.data_root,
                    "--iterations", 1 if run.rehearse else 30, "--json"), 120).splitlines()[-1]
                found["profiles"][job] = json.loads(line)
            except Failed as error:
                found["profiles"][job] = {"failed": str(error)}
                failed.append(f"profile of {job}")
        run.results["stages"]["benchmarks"] = {"comparisons": outcome}
        run.save()  # the next one may be one too many for the time there is
    return {"comparisons": outcome} | ({"failed": ", ".join(failed)} if failed else {})


STAGES = {"correctness": correctness, "epochs": epochs, "evaluation": evaluation, "autoattack": autoattack,
          "service": service, "benchmarks": benchmarks}


def main():
    parser = argparse.ArgumentParser(prog="run.sh")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--comparisons", type=lambda names: names.split(","), default=[])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("stages", nargs="*", metavar="STAGE")
    options = parser.parse_args()
    if unknown := set(options.stages) - set(STAGES):
        parser.error(f"{', '.join(sorted(unknown))} is no stage: there are {', '.join(STAGES)}")
    device, reason = (None, None) if options.rehearse else find_gpu()
    if reason:
        print(f"run.sh: {reason}: nothing was run", file=sys.stderr)
        return NO_GPU
    libraries, reason = torch_libraries()
    if reason:
        print(f"run.sh: {reason}", file=sys.stderr)
        return WRONG_CALL
    run = Run(options, device, libraries)
    failed = 0
    for name in options.stages or STAGES:
        begin = time.monotonic()
        try:
            outcome = STAGES[name](run)
        except Failed as error:
            outcome = {"failed": str(error)}
        except Exception as error:  # a fault of this file or a damaged answer: the next stage is run all the same
            outcome = {"failed": f"{type(error).__name__}: {error}"}
        seconds = time.monotonic() - begin
        run.results["stages"][name] = outcome | {"seconds": seconds}
        run.save()
        failed += "failed" in outcome
        print(f"{name}: {outcome.get('failed', 'passed')} ({seconds:.0f} s)", flush=True)
    shutil.rmtree(run.data_root)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

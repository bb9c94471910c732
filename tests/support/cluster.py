"""Real processes of ham on this machine: a coordinator, workers, and hamctl."""
import datetime
import json
import os
import pathlib
import select
import signal
import subprocess
import tempfile
import time

BIN = pathlib.Path(os.environ["HAM_BIN"])
WAIT_SECONDS = 90


def wait_for(condition, what, seconds=WAIT_SECONDS):
    """Polls until condition() is truthy and returns it; a bound, not a delay."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s for {what}")
        select.select([], [], [], 0.05)


def spec(world_size=2, method=None, epochs=2, **train):
    """A small job on real images, as YAML (which JSON is)."""
    body = {
        "data": {"name": "fashion-mnist", "train_rows": 1024, "test_rows": 64, "validation_share": 0},
        "method": method or {"name": "ham", "mining_step": 1, "mining_start_epoch": 2},
        "attack": {"epsilon": 0.1, "step_size": 0.05, "steps": 2},
        "epochs": epochs, "batch_size": 64,
        "evaluation": {"suites": [{"name": "pgd-3", "attacks": [{"steps": 3, "step_size": 0.05}]}]},
        "resources": {"world_size": world_size},
    }
    body.update(train)
    return json.dumps({"train": body})


LONG = {"epochs": 400}  # runs until something ends it


def unix_seconds(timestamp):
    """Of a time as hamctl writes it, with up to nine digits behind the point."""
    whole, _, fraction = timestamp.rstrip("Z").partition(".")
    moment = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.timezone.utc)
    return moment.timestamp() + float(f"0.{fraction or 0}")


def state_and_parent(pid):
    """As /proc has them; of a process that is gone, those of a zombie without a parent."""
    try:
        state, parent = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[:2]
    except OSError:
        return "Z", 0
    return state, int(parent)


def processes_of(parent):
    """pids whose parent is `parent`, in /proc."""
    children = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        state, of = state_and_parent(folder.name)
        if of == parent and state != "Z":
            children.append(int(folder.name))
    return children


def alive(pid):
    return state_and_parent(pid)[0] != "Z"


class Cluster:
    """Use as a context manager; leaves no process behind."""

    def __init__(self, workers=2, options=(), data_root="/usr/share/datasets", folder=None, listen="127.0.0.1:0",
                 environment=None):
        """`folder`: one that is there already, and stays; else a temporary one. `environment`: in place of this one's."""
        self.folder = None if folder else tempfile.TemporaryDirectory(prefix="ham-e2e-")
        self.path = pathlib.Path(folder or self.folder.name)
        self.options = list(options)
        self.data_root = data_root
        self.coordinator = None
        self.workers = {}
        self.listen, self.metrics = listen, "127.0.0.1:0"
        self.environment = dict(environment or os.environ, HAM_CONFIG=str(self.path / "config.json"), LC_ALL="C.UTF-8")
        try:
            self.start_coordinator()
            for i in range(workers):
                self.start_worker(f"worker-{i}")
            self.hamctl("login", "--bootstrap", self.path / "state" / "bootstrap", "--timeout", "60s")
        except BaseException as error:
            self.__exit__(type(error))
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        processes = [p for p in [*self.workers.values(), self.coordinator] if p is not None]
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in processes:
            try:
                process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if kind is not None:
            for log in sorted(self.path.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}")
        if self.folder:
            self.folder.cleanup()

    def _spawn(self, command, log, environment=None):
        with open(self.path / log, "ab") as out:
            # setpriv: a test that is killed takes its processes along.
            return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *map(str, command)], stdout=out, stderr=out,
                                    env=dict(self.environment, **(environment or {})))

    def start_coordinator(self, environment=None):
        ports = self.path / "ports"
        ports.unlink(missing_ok=True)
        self.coordinator = self._spawn(
            [BIN / "ham-coordinator", "--state-dir", self.path / "state", "--listen", self.listen, "--metrics-listen",
             self.metrics, "--port-file", ports, *self.options], "coordinator.log", environment)
        wait_for(lambda: ports.exists() or self.coordinator.poll() is not None, "the coordinator's port file")
        if self.coordinator.poll() is not None:
            raise AssertionError((self.path / "coordinator.log").read_text())
        where = json.loads(ports.read_text())
        self.listen, self.metrics = where["listen"], where["metrics"]

    def coordinator_command(self, *arguments):
        """What a `ham-coordinator COMMAND` that must succeed prints."""
        done = subprocess.run([str(BIN / "ham-coordinator"), *map(str, arguments)], capture_output=True, text=True,
                              timeout=WAIT_SECONDS)
        if done.returncode != 0:
            raise AssertionError(f"ham-coordinator {arguments} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def start_worker(self, name, state=None, options=(), join=None, prefix=(), environment=None, slots=1):
        """`prefix`: command that runs the worker in its own process."""
        self.workers[name] = self._spawn(
            [*prefix, BIN / "ham-worker", "--join", join or self.path / "state" / "worker-join", "--name", name,
             "--slots", slots, "--state-dir", self.path / (state or name), "--data-root", self.data_root, *options],
            f"{name}.log", environment)
        return self.workers[name]

    def hamctl(self, *arguments, check=0, text=None, timeout=WAIT_SECONDS):
        done = subprocess.run([str(BIN / "hamctl"), *map(str, arguments)], env=self.environment, input=text,
                              capture_output=True, text=True, timeout=timeout)
        if check is not None and done.returncode != check:
            raise AssertionError(f"hamctl {arguments} ended with {done.returncode}, not {check}:\n{done.stdout}"
                                 f"{done.stderr}")
        return done

    def write_spec(self, text, name="job.yaml"):
        path = self.path / name
        path.write_text(text)
        return path

    def submit(self, text, *arguments):
        """Name of the new job."""
        out = self.hamctl("submit", self.write_spec(text), "-o", "json", *arguments).stdout
        return json.loads(out)["name"]

    def job(self, name):
        return json.loads(self.hamctl("get", name, "-o", "json").stdout)

    def wait_state(self, name, *states, seconds=WAIT_SECONDS):
        last = {}

        def reached():
            last.update(self.job(name))
            return last["state"] in states and last
        try:
            return wait_for(reached, f"{name} to be {states}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {last.get('state')}: {last.get('state_message')}") from None

    def records(self, name):
        """The whole log of a finished job, as `hamctl watch -o json` prints it; a record a line."""
        out = self.hamctl("watch", name, "-o", "json", check=None).stdout
        return [json.loads(line) for line in out.splitlines() if line.startswith("{")]

    def trainers(self, worker):
        return processes_of(self.workers[worker].pid)

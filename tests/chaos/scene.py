"""A coordinator and workers under test, each reached through what can be broken, and the faults that break it."""
import json
import os
import pathlib
import shutil
import signal
import time

from cluster import Cluster, alive
from faults import SHIFTED_CLOCK, fill, ranks, send, shifted_clock, stop
from hosts import GATEWAY, Hosts, Unavailable, isolate, small_disk
from proxy import DOWN, UP, Proxy, Weather
from schedule import KINDS, QUICK

COORDINATOR_MEBIBYTES, WORKER_MEBIBYTES = 1024, 256
MOST_CLOCK_SECONDS = 3500  # certificates hold for an hour before they were made
PRIVILEGED = ["unplug", "cut_ranks", "fill_coordinator", "fill_worker"]
WEATHERS = {
    "cut": lambda strength: Weather(refuses=True),
    "silence": lambda strength: Weather(dead=(UP, DOWN)),
    "half_up": lambda strength: Weather(dead=(UP,)),
    "half_down": lambda strength: Weather(dead=(DOWN,)),
    "slow": lambda strength: Weather(delay=0.05 + 0.4 * strength),
    "throttle": lambda strength: Weather(bytes_per_second=20_000 + 500_000 * strength),
}


class Scene:
    """Use as a context manager. Logs stay in `folder`."""

    def __init__(self, folder, workers):
        self.missing = {}  # kind of fault: why it cannot be had here
        self.hosts = None
        try:
            isolate()
            self.hosts = Hosts(workers)
            small_disk(folder / "state", COORDINATOR_MEBIBYTES)
            for i in range(workers):
                small_disk(folder / f"worker-{i}", WORKER_MEBIBYTES)
        except Unavailable as reason:
            self.missing |= {kind: str(reason) for kind in PRIVILEGED}
        if not SHIFTED_CLOCK.exists():
            self.missing |= {kind: f"{SHIFTED_CLOCK} is not built" for kind in KINDS if kind.startswith("clock_")}
        address = GATEWAY if self.hosts else "127.0.0.1"
        self.cluster = Cluster(workers=0, folder=folder, listen=f"{address}:0",
                               options=[*QUICK, "--advertise", address])
        host, port = self.cluster.listen.rsplit(":", 1)
        self.proxies = [Proxy(address, (host, int(port))) for _ in range(workers)]
        for i, proxy in enumerate(self.proxies):
            join = json.loads((folder / "state" / "worker-join").read_text())
            join["endpoints"] = [proxy.address]
            self._join(i).write_text(json.dumps(join))
            self.start_agent(i)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        for proxy in self.proxies:
            proxy.set(Weather())
        self.cluster.__exit__(None)
        for proxy in self.proxies:
            proxy.close()
        if self.hosts:
            self.hosts.close()

    @property
    def kinds(self):
        """Of faults that can be had here."""
        return [kind for kind in KINDS if kind not in self.missing]

    def _join(self, i):
        return self.cluster.path / f"worker-{i}.join"

    def agent(self, i):
        return self.cluster.workers[f"worker-{i}"]

    def start_agent(self, i, environment=None):
        self.cluster.start_worker(f"worker-{i}", join=self._join(i), environment=environment,
                                  prefix=self.hosts.prefix(i) if self.hosts else ())

    def kill_agent(self, i):
        self.agent(i).kill()
        self.agent(i).wait()

    def kill_coordinator(self):
        self.cluster.coordinator.kill()
        self.cluster.coordinator.wait()

    def excluded(self):
        """Numbers of workers that get no ranks."""
        workers = json.loads(self.cluster.hamctl("workers", "-o", "json", "--timeout", "60s").stdout)
        workers = workers["workers"] if isinstance(workers, dict) else workers
        return [int(one["name"].rsplit("-", 1)[1]) for one in workers if one["state"] == "EXCLUDED"]

    def left_behind(self):
        """Command lines of processes that this scene's programs have left, after its end."""
        mark = f"HAM_CONFIG={self.cluster.environment['HAM_CONFIG']}".encode()
        found = []
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes().split(b"\0") and alive(int(process.name)):
                    found.append((process / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return found

    # ---- faults: each returns what heals it, or None when there was nobody to meet

    def inject(self, fault, stream):
        if fault.kind in WEATHERS:
            self.proxies[fault.worker].set(WEATHERS[fault.kind](fault.pick))
            return lambda: self.proxies[fault.worker].set(Weather())
        return getattr(self, f"_{fault.kind}")(fault, stream)

    def _kill_coordinator(self, fault, stream):
        self.kill_coordinator()
        return self.cluster.start_coordinator

    def _stop_coordinator(self, fault, stream):
        return stop([self.cluster.coordinator.pid])

    def _clock_coordinator(self, fault, stream):
        self.kill_coordinator()
        self.cluster.start_coordinator(_clock(fault))

        def heal():
            self.kill_coordinator()
            self.cluster.start_coordinator()
        return heal

    def _kill_agent(self, fault, stream):
        self.kill_agent(fault.worker)
        return lambda: self.start_agent(fault.worker)

    def _stop_agent(self, fault, stream):
        return stop([self.agent(fault.worker).pid])

    def _stop_host(self, fault, stream):
        agent = self.agent(fault.worker).pid
        os.kill(agent, signal.SIGSTOP)
        return stop([agent, *self.cluster.trainers(f"worker-{fault.worker}")])

    def _clock_agent(self, fault, stream):
        self.kill_agent(fault.worker)
        self.start_agent(fault.worker, _clock(fault))

        def heal():
            self.kill_agent(fault.worker)
            self.start_agent(fault.worker)
        return heal

    def _kill_trainer(self, fault, stream):
        pids = ranks(self.cluster)
        if not pids:
            return None
        send(pids[int(fault.pick * len(pids))], signal.SIGKILL)
        return lambda: None

    def _stop_trainer(self, fault, stream):
        pids = ranks(self.cluster)
        return stop([pids[int(fault.pick * len(pids))]]) if pids else None

    def _cut_ranks(self, fault, stream):
        """One of the connections between ranks, if any: its ends are told."""
        held = [(i, connection) for i in range(len(self.proxies))
                for connection in self.hosts.connections(i, ranks(self.cluster, [f"worker-{i}"]))]
        if not held or not self.hosts.destroy(*held[int(fault.pick * len(held))]):
            return None
        return lambda: None

    def _unplug(self, fault, stream):
        self.hosts.unplug(fault.worker)
        return lambda: self.hosts.plug(fault.worker)

    def _fill_coordinator(self, fault, stream):
        return fill(self.cluster.path / "state")

    def _fill_worker(self, fault, stream):
        return fill(self.cluster.path / f"worker-{fault.worker}")

    def _drop_artifacts(self, fault, stream):
        shutil.rmtree(self.cluster.path / "state" / "artifacts", ignore_errors=True)
        return lambda: None

    def _kill_watcher(self, fault, stream):
        return (lambda: None) if stream.kill_a_watcher(fault.pick) else None


def _clock(fault):
    return shifted_clock((2 * fault.pick - 1) * MOST_CLOCK_SECONDS)


def wait_until(moment):
    """Of time.monotonic()."""
    while (left := moment - time.monotonic()) > 0:
        time.sleep(left)

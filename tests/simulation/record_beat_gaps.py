#!/usr/bin/env python3
"""Records the time between two beats of a real worker, as the coordinator's side of the network sees them.

  HAM_BIN=build/bin tests/simulation/record_beat_gaps.py --minutes 10 [--busy N]

A coordinator (--insecure), one worker that trains, and a proxy between them that notes when each message of the control
stream comes. --busy adds weak processes that do nothing but compute. Prints the quantiles for beat_gaps.h.
"""
import argparse
import multiprocessing
import os
import pathlib
import selectors
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from tests.support.cluster import LONG, Cluster, spec  # noqa: E402

SHARES = [0, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1]
DATA = 0  # type of an HTTP/2 frame
PREFACE = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


class Frames:
    """Frames of HTTP/2 from bytes as they come; times of DATA frames by stream."""

    def __init__(self):
        self.bytes = b""
        self.skip = PREFACE
        self.times = {}

    def feed(self, data, now):
        self.bytes += data
        while True:
            if len(self.bytes) < self.skip + 9:
                return
            head = self.bytes[self.skip:self.skip + 9]
            end = self.skip + 9 + int.from_bytes(head[:3], "big")
            if len(self.bytes) < end:
                return
            if head[3] == DATA:
                self.times.setdefault(int.from_bytes(head[5:9], "big"), []).append(now)
            self.bytes = self.bytes[end:]
            self.skip = 0


def proxy(listener, target, until):
    """Passes bytes on; returns the Frames of each connection, of what the worker sends."""
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    peers, frames = {}, {}
    while time.monotonic() < until:
        for key, _ in selector.select(timeout=1):
            if key.fileobj is listener:
                worker = listener.accept()[0]
                coordinator = socket.create_connection(target)
                for one, other in ((worker, coordinator), (coordinator, worker)):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    selector.register(one, selectors.EVENT_READ)
                    peers[one] = other
                frames[worker] = Frames()
                continue
            data = key.fileobj.recv(1 << 16)
            if key.fileobj in frames:
                frames[key.fileobj].feed(data, time.monotonic())
            if data:
                peers[key.fileobj].sendall(data)
            else:
                selector.unregister(key.fileobj)
    return list(frames.values())


def spin():
    os.nice(19)  # many and weak: others use this machine too
    while True:
        pass


def control_stream(all_frames):
    """The stream with a message about every second for the whole time: no other one has."""
    return max((times for frames in all_frames for times in frames.times.values()),
               key=lambda times: sum(0.5 < b - a < 30 for a, b in zip(times, times[1:])))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--busy", type=int, default=0)
    options = parser.parse_args()
    busy = [multiprocessing.Process(target=spin, daemon=True) for _ in range(options.busy)]
    for process in busy:
        process.start()
    with Cluster(workers=0, options=["--insecure"]) as cluster:
        listener = socket.create_server(("127.0.0.1", 0))
        join = cluster.path / "state" / "worker-join"
        port = listener.getsockname()[1]
        join.write_text(join.read_text().replace(cluster.listen, f"127.0.0.1:{port}"))
        cluster.start_worker("worker")
        cluster.hamctl("submit", cluster.write_spec(spec(world_size=1, **LONG)), timeout=600)
        host, target = cluster.listen.rsplit(":", 1)
        times = control_stream(proxy(listener, (host, int(target)), time.monotonic() + 60 * options.minutes))
    gaps = sorted(b - a for a, b in zip(times, times[1:]))
    print(f"{len(gaps)} gaps, load {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores")
    for share in SHARES:
        print(f"{{{share}, {gaps[round(share * (len(gaps) - 1))]:.4f}}},")


if __name__ == "__main__":
    main()

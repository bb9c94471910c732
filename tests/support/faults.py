"""What breaks real processes of ham, and what heals them again."""
import os
import pathlib
import signal

from cluster import BIN

SHIFTED_CLOCK = BIN.parent / "tests" / "libshifted_clock.so"


def shifted_clock(seconds):
    """Environment of a program whose wall clock is off by so many."""
    return {"LD_PRELOAD": str(SHIFTED_CLOCK), "HAM_CLOCK_OFFSET": str(round(seconds))}


def ranks(cluster, workers=None):
    """pids of trainers that run one: an agent also asks a trainer for its version."""
    pids = [pid for name in sorted(workers or cluster.workers) for pid in sorted(cluster.trainers(name))]
    return [pid for pid in pids if b"--agent-fd" in _command_line(pid)]


def _command_line(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def send(pid, number):
    """A signal, unless the process is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def stop(pids):
    """Returns what lets them go on."""
    for pid in pids:
        send(pid, signal.SIGSTOP)
    return lambda: [send(pid, signal.SIGCONT) for pid in pids]


def fill(folder):
    """Leaves no room on its file system; returns what makes room again."""
    ballast = folder / "ballast"
    with open(ballast, "wb") as out:
        size = 0
        for _ in range(64):  # by halves: others write too, and of what is not there as a whole tmpfs gives nothing
            disk = os.statvfs(folder)
            more = (disk.f_bavail + 1) // 2 * disk.f_frsize
            if more == 0:
                break
            try:
                os.posix_fallocate(out.fileno(), size, more)
                size += more
            except OSError:  # what others took meanwhile
                pass
    return lambda: ballast.unlink()

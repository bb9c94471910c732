"""systemd as process 1 of a root that debian_root.py made, with processes, mounts, network and control groups of its
own.

Without a container engine, so as it works where only root is there. There is no network but loopback, and no limits by
control groups; users, mounts, capabilities and filters of system calls are as units say."""
import os
import pathlib
import subprocess

import cluster
from debian_root import run

# $1: the root, $2: a control group for all of it. As systemd asks of what starts it in a container.
BOOT = r"""
set -e
echo $$ >"$2/cgroup.procs"
exec unshare --mount --net --pid --ipc --uts --cgroup --fork --kill-child --propagation private sh -ec '
  mount --bind "$1" "$1"
  cd "$1"
  mount -t proc proc proc
  mount -t sysfs -o ro sysfs sys
  mount -t cgroup2 cgroup2 sys/fs/cgroup
  mount -t tmpfs -o mode=755 tmpfs dev
  for device in null zero full random urandom tty; do cp -a /dev/$device dev/; done
  ln -s pts/ptmx dev/ptmx
  mount -t tmpfs -o mode=755 tmpfs run
  pivot_root . .
  umount -l .
  exec env -i container=other PATH=/usr/sbin:/usr/bin /lib/systemd/systemd --unit=multi-user.target
' sh "$1"
"""


class BootedRoot:
    """Nothing in it outlives it or this program. Use as a context manager."""

    def __init__(self, root, log):
        (mounted,) = [line.split()[1] for line in pathlib.Path("/proc/mounts").read_text().splitlines()
                      if line.split()[2] == "cgroup2"][:1]
        self.cgroup = pathlib.Path(mounted) / f"ham-test-{os.getpid()}"
        self.cgroup.mkdir()
        with open(log, "ab") as out:
            command = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", BOOT, "sh", root, self.cgroup]
            self.holder = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

        def started():
            if self.holder.poll() is not None:
                raise AssertionError(f"systemd did not start: {pathlib.Path(log).read_text()[-2000:]}")
            children = cluster.processes_of(self.holder.pid)
            return children and pathlib.Path(f"/proc/{children[0]}/comm").read_text() == "systemd\n" and children
        try:
            (self.init,) = cluster.wait_for(started, "systemd to be process 1")
            # "degraded" would be right too: not all that a host runs can run here.
            cluster.wait_for(lambda: self.run("systemctl", "is-system-running", check=False).strip() in
                             ("running", "degraded"), "systemd to be up")
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.holder.kill()
        self.holder.wait()
        cluster.wait_for(lambda: "populated 0" in (self.cgroup / "cgroup.events").read_text(), "all in there to end")
        for folder in [*sorted((path for path in self.cgroup.rglob("*") if path.is_dir()), reverse=True), self.cgroup]:
            folder.rmdir()

    def prefix(self):
        """Of a command that runs in there as root."""
        return ["nsenter", "--target", str(self.init), "--all", "env", "-i", "LC_ALL=C.UTF-8",
                "HOME=/root", "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]

    def run(self, *command, check=True):
        if check:
            return run(*self.prefix(), *command)
        return subprocess.run([*self.prefix(), *map(str, command)], capture_output=True, text=True).stdout

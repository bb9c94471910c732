"""Hosts of their own for workers, on one machine: network namespaces on a bridge, which go with this process."""
import ctypes
import os
import pathlib
import subprocess

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x1000, 0x4000, 0x40000, 2
SYS_PIVOT_ROOT = 155  # of x86-64
GATEWAY = "10.77.0.1"


class Unavailable(Exception):
    """Why there can be none here."""


def isolate():
    """Gives this process, which must have one thread, a network and mounts of its own."""
    _unshare(CLONE_NEWNS | CLONE_NEWNET)
    _mount_root()
    _run("mount", "--make-rprivate", "/")
    _run("ip", "link", "set", "lo", "up")


def leave_chroot():
    """In a chroot "/" is no mount, and no user namespace can be made: gives this process mounts of its own, whose root
    is what it sees as "/"."""
    if not _root_is_mounted():
        _unshare(CLONE_NEWNS)
        _mount_root()


def _unshare(what):
    _call("unshare", what)


def _call(name, *arguments):
    """A function of the C library."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise Unavailable(f"{name}: {os.strerror(ctypes.get_errno())} (it needs root)")


def _root_is_mounted():
    return any(line.split()[4] == "/" for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines())


def _mount_root():
    if _root_is_mounted():
        return
    here = os.getcwd()
    root = os.open("/", os.O_PATH)
    mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    _call("setns", mounts, CLONE_NEWNS)  # from now on "/" is the root of these mounts
    os.fchdir(root)
    path = os.getcwd().encode()
    _call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    _call("mount", path, path, None, MS_BIND | MS_REC, None)
    os.chdir(path)
    _call("syscall", SYS_PIVOT_ROOT, b".", b".")
    _call("umount2", b".", MNT_DETACH)
    os.chdir(here)
    os.close(root)
    os.close(mounts)


def _run(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise Unavailable(f"no program {command[0]}") from None
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def small_disk(folder, mebibytes):
    """A file system of its own at `folder`; after isolate()."""
    folder.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder))


class Hosts:
    """After isolate(). Host i is reached at address(i), and reaches this process at GATEWAY."""

    def __init__(self, count):
        _run("ip", "link", "add", "ham0", "type", "bridge")
        _run("ip", "address", "add", f"{GATEWAY}/24", "dev", "ham0")
        _run("ip", "link", "set", "ham0", "up")
        self._holders = []
        for i in range(count):
            holder = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sh", "-c",
                                       "echo; exec sleep infinity"], stdout=subprocess.PIPE)
            self._holders.append(holder)
            holder.stdout.readline()  # it is in its namespace
            _run("ip", "link", "add", f"host{i}", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
            _run("ip", "link", "set", f"host{i}", "master", "ham0", "up")
            _run(*self.prefix(i), "ip", "address", "add", f"{self.address(i)}/24", "dev", "eth0")
            _run(*self.prefix(i), "ip", "link", "set", "eth0", "up")
            _run(*self.prefix(i), "ip", "link", "set", "lo", "up")

    def address(self, i):
        return f"10.77.0.{10 + i}"

    def prefix(self, i):
        """Runs the command behind it on host i, as the same process."""
        return ["nsenter", f"--net=/proc/{self._holders[i].pid}/ns/net"]

    def unplug(self, i):
        """Nothing gets to or from host i any more, and nobody is told."""
        _run("ip", "link", "set", f"host{i}", "down")

    def plug(self, i):
        _run("ip", "link", "set", f"host{i}", "up")

    def close(self):
        for holder in self._holders:
            holder.kill()
            holder.wait()
            holder.stdout.close()

    def connections(self, i, pids):
        """(address here, address there) of the TCP connections that these processes on host i hold."""
        held = []
        for line in _run(*self.prefix(i), "ss", "-tnpH", "state", "established").splitlines():
            here, there = line.split()[2:4]
            if any(f"pid={pid}," in line for pid in pids):
                held.append((here, there))
        return held

    def destroy(self, i, connection):
        """Both ends are told that it is over. False where it is over already, or the kernel cannot do that."""
        here, there = connection
        select = ("-tnH", "state", "established", "src", here, "dst", there)
        held = _run(*self.prefix(i), "ss", *select)
        _run(*self.prefix(i), "ss", "-K", *select)
        return bool(held) and not _run(*self.prefix(i), "ss", *select)

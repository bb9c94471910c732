"""A Slurm of its own on this machine: munged, slurmctld and a slurmd a node, with configuration, keys and state in one
folder. Nothing under /etc is read or written."""
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import cluster
from cluster import alive, state_and_parent

INSIDE = "HAM_SLURM_NAMESPACE"
PROGRAMS = ["munged", "slurmctld", "slurmd", "sbatch", "sinfo", "scontrol", "scancel", "srun", "ip", "unshare"]
DEVICES = ["/dev/null", "/dev/zero", "/dev/full"]  # in the places of GPUs; as many as the scripted NVML has


def wait_for(condition, what, seconds=240):
    """For Slurm's own pace, and several hosts' work on one machine."""
    return cluster.wait_for(condition, what, seconds)


def find_program(name):
    for folder in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        if os.access(f"{folder}/{name}", os.X_OK):
            return f"{folder}/{name}"
    return None


def why_unavailable():
    """None where a Slurm can run."""
    if missing := [name for name in PROGRAMS if find_program(name) is None]:
        return f"no {', '.join(missing)} (deploy/install_packages.sh long)"
    if os.geteuid() != 0:
        return "it needs root"
    if INSIDE not in os.environ:
        return os.environ.get(INSIDE + "_ERROR", "no namespaces")
    return None


def enter_namespace():
    """Runs this program anew with processes, mounts and a network of its own, which all end with it. Comes back only
    where it is there already, or where there are no namespaces."""
    if INSIDE in os.environ or os.geteuid() != 0 or find_program("unshare") is None:
        return
    unshare = ["unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child"]
    tried = subprocess.run([*unshare, "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    if tried.returncode != 0:
        os.environ[INSIDE + "_ERROR"] = f"no namespaces: {tried.stderr.strip()}"
        return
    os.environ[INSIDE] = "1"
    # Slurm resolves no name where loopback alone has an address.
    network = ("ip link set lo up && ip link add ham0 type bridge && ip address add 10.77.0.1/24 dev ham0 && "
               "ip link set ham0 up")
    # The shell is the first process there: it also waits for those whose parents have ended.
    os.execvp("unshare", [*unshare, "bash", "-c", f'{network} && {sys.executable} "$@"; exit $?', "bash", *sys.argv])


def comm_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


class Slurm:
    """Use as a context manager. Nodes n1, n2, ... have one CPU each; the last one has two, and GPUs."""

    def __init__(self, nodes=4):
        self.folder = tempfile.TemporaryDirectory(prefix="ham-slurm-")
        self.path = pathlib.Path(self.folder.name)
        self.path.chmod(0o711)  # munge's socket must be reached
        self.nodes = [f"n{i + 1}" for i in range(nodes)]
        self.daemons = {}
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
        self.environment["SLURM_CONF"] = str(self.path / "slurm.conf")
        try:
            self._configure()
            self._start_munge()
            self._spawn("slurmctld", "slurmctld", "-D")
            for node in self.nodes:
                self.start_node(node)
            wait_for(lambda: self.run("sinfo", "--noheader", "--format=%T").split() == ["idle"], "idle nodes")
        except BaseException as error:
            self.__exit__(type(error))
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        for process in self.daemons.values():
            process.kill()
            process.wait()
        if kind is not None:
            self.print_logs()
        self.folder.cleanup()

    def print_logs(self):
        for log in sorted(self.path.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}")

    def _configure(self):
        path = self.path
        for folder in ("state", "spool"):
            (path / folder).mkdir()
        (path / "gres.conf").write_text(
            "".join(f"NodeName={self.nodes[-1]} Name=gpu File={device}\n" for device in DEVICES))
        lines = f"""ClusterName=ham
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=6817
AuthType=auth/munge
AuthInfo=socket={path}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={path}/state
SlurmdSpoolDir={path}/spool/%n
SlurmctldPidFile={path}/slurmctld.pid
SlurmdPidFile={path}/slurmd-%n.pid
SlurmctldLogFile={path}/slurmctld.log
SlurmdLogFile={path}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
PartitionName=ham Nodes=ALL Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=2
PartitionName=urgent Nodes=ALL State=UP PriorityTier=10 PreemptMode=OFF
""".splitlines()
        for i, node in enumerate(self.nodes):
            last = node == self.nodes[-1]
            lines.append(f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={17000 + i} State=UNKNOWN "
                         f"CPUs={2 if last else 1}" + (f" Gres=gpu:{len(DEVICES)}" if last else ""))
        (path / "slurm.conf").write_text("\n".join(lines) + "\n")

    def _spawn(self, name, program, *arguments):
        with open(self.path / f"{name}.out.log", "ab") as out:
            self.daemons[name] = subprocess.Popen([find_program(program), *map(str, arguments)], stdout=out, stderr=out,
                                                  env=self.environment)

    def _start_munge(self):
        key = self.path / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        files = {"key-file": key, "socket": self.path / "munge.socket", "pid-file": self.path / "munge.pid",
                 "seed-file": self.path / "munge.seed"}
        self._spawn("munged", "munged", "--foreground", *(f"--{name}={file}" for name, file in files.items()))
        wait_for(lambda: (self.path / "munge.socket").exists() or self.daemons["munged"].poll() is not None, "munged")

    def start_node(self, node):
        self._spawn(node, "slurmd", "-D", "-N", node)

    def crash_node(self, node):
        """Nothing of it is left, and nobody is told."""
        self.daemons[node].kill()
        self.daemons[node].wait()
        processes = self.processes_on(node)
        parents = {parent for _, parent in map(state_and_parent, processes) if comm_of(parent) == "slurmstepd"}
        for pid in [*parents, *processes]:  # a slurmstepd would tell of the end of the others
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def processes_on(self, node):
        """Those of its jobs."""
        found = []
        for environ in pathlib.Path("/proc").glob("[0-9]*/environ"):
            try:
                text = environ.read_text(errors="replace")
            except OSError:
                continue
            if f"\0SLURMD_NODENAME={node}\0" in f"\0{text}" and alive(int(environ.parent.name)):
                found.append(int(environ.parent.name))
        return found

    def repair_node(self, node):
        self.start_node(node)
        wait_for(lambda: self.run("sinfo", "--noheader", f"--nodes={node}", "--format=%T").split()[0] == "idle", node)

    def job(self, job):
        """What Slurm says of it, by field."""
        shown = self.run("scontrol", "show", "job", job)
        return dict(field.split("=", 1) for field in shown.split() if "=" in field)

    def seconds_run(self, job):
        hours, minutes, seconds = map(int, self.job(job)["RunTime"].split(":"))
        return 3600 * hours + 60 * minutes + seconds

    def run(self, program, *arguments, check=True, environment=()):
        done = subprocess.run([find_program(program), *map(str, arguments)], capture_output=True, text=True, timeout=60,
                              env={**self.environment, **dict(environment)})
        if check and done.returncode != 0:
            raise AssertionError(f"{program} {arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

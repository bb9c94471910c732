"""The Debian packages in a fresh Debian 12 with systemd as process 1: installed, at work, upgraded, removed, purged.

Needs root, `deploy/install_packages.sh packages` and a build. The last line is JSON: sizes, and the time from
`apt-get install`, with what the packages depend on fetched before, to the first metric."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

BUILD = pathlib.Path(os.environ["HAM_BUILD"]).resolve()
os.environ.setdefault("HAM_BIN", str(BUILD / "bin"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import cluster  # noqa: E402
import xml_runner  # noqa: E402
from booted_root import BootedRoot  # noqa: E402
from debian_root import make_root, run  # noqa: E402
from hosts import leave_chroot  # noqa: E402

SERVICES = {"ham-coordinator": "coordinator", "ham-worker": "worker"}
PACKAGES = ["ham-client", "ham-server", "ham-worker"]
# Of CPack. Without ham-worker-cuda: some GB, and nothing here has a GPU.
COMPONENTS = "client;client-package;server;server-package;worker;trainer;worker-package"
# What apt, dpkg and the running system keep of any package that was there.
KEPT = ("var/cache/", "var/lib/apt/", "var/lib/dpkg/", "var/log/", "var/lib/systemd/", "var/tmp/", "tmp/", "root/",
        "run/", "etc/ld.so.cache", "etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/machine-id")
MEBIBYTE = 1 << 20


def fields(package):
    """Of the control file."""
    text = run("dpkg-deb", "--field", package)
    return dict(re.findall(r"^([A-Za-z-]+): (.*(?:\n .*)*)", text, re.M))


def next_version(package, folder):
    """The same with the next version and one more line in its configuration file; the new package."""
    tree = folder / "tree"
    run("dpkg-deb", "--raw-extract", package, tree)
    control = tree / "DEBIAN" / "control"
    was = fields(package)["Version"]
    text = control.read_text().replace(f"Version: {was}\n", f"Version: {was}+next\n")
    control.write_text(text.replace(f"(= {was})", f"(= {was}+next)"))
    for file in tree.glob("etc/ham/*.env"):
        file.write_text(file.read_text() + "# Of the next version.\n")
    target = folder / package.name
    run("dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, target)
    shutil.rmtree(tree)
    return target


class PackagesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="ham-packages-", dir="/var/tmp"))  # some GB
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.root = cls.folder / "root"
        make_root(cls.root, ["systemd-sysv"])
        for name in ("first", "next"):
            (cls.root / "packages" / name).mkdir(parents=True)
        run("cpack", "--config", BUILD / "CPackConfig.cmake", "-B", cls.folder / "packages", "-D",
            f"CPACK_COMPONENTS_ALL={COMPONENTS}", cwd=BUILD)
        for file in (cls.folder / "packages").glob("*.deb"):
            file.rename(cls.root / "packages/first" / file.name)
        shutil.rmtree(cls.folder / "packages")
        cls.packages = sorted((cls.root / "packages/first").iterdir())
        assert [fields(package)["Package"] for package in cls.packages] == PACKAGES
        for package in cls.packages:
            next_version(package, cls.folder).rename(cls.root / "packages/next" / package.name)
        cls.offline("apt-get", "update")
        cls.offline("apt-get", "install", "-y", "dataset-fashion-mnist")
        cls.offline("apt-get", "install", "-y", "--download-only", *cls.inside("first"))
        with BootedRoot(cls.root, cls.folder / "systemd.log"):
            pass  # its first boot leaves files of its own
        cls.before = cls.files()

    @classmethod
    def offline(cls, *command):
        """In the root, with this machine's network, where no systemd runs."""
        return run("unshare", "--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={cls.root}/proc", "chroot",
                   cls.root, "env", "-i", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8",
                   "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *command)

    @classmethod
    def inside(cls, version):
        return [f"/packages/{version}/{package.name}" for package in cls.packages]

    @classmethod
    def files(cls):
        """All paths in the root that are not KEPT, and what users and groups of ours are known there."""
        found = set()
        for folder, folders, names in os.walk(cls.root):
            found |= {os.path.relpath(os.path.join(folder, name), cls.root) for name in [*folders, *names]}
        users = {f"{file}: {line}" for file in ("passwd", "group") for line in
                 (cls.root / "etc" / file).read_text().splitlines() if line.startswith("ham-")}
        return {path for path in found if not f"{path}/".startswith(KEPT) and not path.startswith(KEPT)} | users

    def assert_nothing_left(self):
        self.assertEqual(sorted(self.files() - self.before), [])
        self.assertEqual([str(path) for place in ("var/lib", "var/cache", "etc") for path in
                          (self.root / place).rglob("*ham-*") if "apt" not in path.parts], [])

    # ---- in the machine that runs

    def properties(self, service, *names):
        shown = self.machine.run("systemctl", "show", service, "--property", ",".join(names))
        return dict(line.split("=", 1) for line in shown.splitlines())

    def state(self, service):
        return self.properties(service, "ActiveState")["ActiveState"]

    def wait_active(self, service):
        cluster.wait_for(lambda: self.state(service) == "active", f"{service} to be active")

    def metrics(self, port=7481):
        return subprocess.run(["nsenter", "--target", str(self.machine.init), "--net", "curl", "--silent", "--fail",
                               f"http://127.0.0.1:{port}/metrics"], capture_output=True, text=True).stdout

    def apt(self, verb, *packages):
        # As unattended upgrades: what an administrator changed stays, what none did follows the package.
        return self.machine.run("apt-get", "-y", "-o", "Dpkg::Options::=--force-confdef", "-o",
                                "Dpkg::Options::=--force-confold", verb, *packages)

    def hamctl(self, *arguments):
        return self.machine.run("hamctl", *arguments)

    def submit(self, text):
        (self.root / "root/job.yaml").write_text(text)
        return json.loads(self.hamctl("submit", "/root/job.yaml", "-o", "json"))["name"]

    def job(self, name):
        return json.loads(self.hamctl("get", name, "-o", "json"))

    def wait_job(self, name, state):
        cluster.wait_for(lambda: self.job(name)["state"] == state, f"{name} to be {state}", 300)

    def test_life(self):
        log = self.folder / "systemd.log"
        try:
            with BootedRoot(self.root, log) as self.machine:
                try:
                    self.live()
                except BaseException:
                    print(self.machine.run("journalctl", "--no-pager", "--lines=80", check=False))
                    raise
        finally:
            sys.stdout.flush()

    def live(self):
        self.install()
        self.check_installed()
        self.check_confined("ham-coordinator")
        self.give_join_file()
        self.check_confined("ham-worker")
        self.hamctl("login", "--bootstrap", "/var/lib/ham/coordinator/bootstrap")
        job = self.submit(cluster.spec())
        self.wait_job(job, "SUCCEEDED")
        for service in SERVICES:
            with self.subTest(service=service):
                self.check_watchdog(service)
        self.upgrade(job)
        self.remove_and_return(job)
        self.apt("purge", *PACKAGES)
        self.machine.run("apt-get", "-y", "autoremove", "--purge")
        self.assert_nothing_left()
        self.assertEqual(self.machine.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "ham-*"), "")
        if result := os.environ.get("HAM_PACKAGES_RESULT"):
            pathlib.Path(result).write_text(json.dumps(self.figures, indent=1) + "\n")

    def install(self):
        began = time.monotonic()
        self.apt("install", *self.inside("first"))
        installed = time.monotonic()
        cluster.wait_for(lambda: "\nham_" in self.metrics(), "the first metric")
        now = time.monotonic()
        self.figures = {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "install_to_first_metric_seconds": round(now - began, 1),
            "install_seconds": round(installed - began, 1),
            "package_mebibytes": {fields(p)["Package"]: round(p.stat().st_size / MEBIBYTE, 1) for p in self.packages},
            "installed_mebibytes": {fields(p)["Package"]: round(int(fields(p)["Installed-Size"]) / 1024, 1)
                                    for p in self.packages}}
        print(json.dumps(self.figures), flush=True)

    def check_installed(self):
        self.assertEqual(self.machine.run("dpkg", "--verify", *PACKAGES), "")
        for service, state in SERVICES.items():
            with self.subTest(service=service):
                folder = f"/var/lib/ham/{state}"
                self.assertEqual(self.machine.run("stat", "--format=%U:%G %a", folder), f"{service}:{service} 700\n")
                self.assertEqual(self.machine.run("systemctl", "is-enabled", service).strip(), "enabled")
                self.assertNotIn("not found", self.machine.run("ldd", f"/usr/bin/{service}"))
        self.assertNotIn("not found", self.machine.run("ldd", "/usr/bin/ham-trainer"))
        self.assertEqual(self.state("ham-coordinator"), "active")
        # It waits for its join file, which is no failure.
        self.assertEqual(self.properties("ham-worker", "ActiveState", "ConditionResult"),
                         {"ActiveState": "inactive", "ConditionResult": "no"})
        for name in ("ham-coordinator", "ham-worker", "ham-trainer", "hamctl"):
            self.assertIn("0.", self.machine.run(name, "version" if name in ("ham-trainer", "hamctl") else "--version"))

    def give_join_file(self):
        """As worker.env says."""
        (command,) = re.findall("^# +(install .*)$", (self.root / "etc/ham/worker.env").read_text(), re.M)
        self.machine.run("sh", "-ec", f"cd /var/lib/ham/coordinator; {command}")
        self.wait_active("ham-worker")

    def check_confined(self, service):
        """What its unit says about rights holds, by what the kernel says about its process."""
        pid = self.properties(service, "MainPID")["MainPID"]
        status = dict(line.split(":", 1) for line in self.machine.run("cat", f"/proc/{pid}/status").splitlines())
        self.assertEqual(set(status["Uid"].split()), {self.machine.run("id", "--user", service).strip()})
        self.assertEqual(int(status["CapEff"], 16) | int(status["CapBnd"], 16), 0)
        self.assertEqual((status["NoNewPrivs"].strip(), status["Seccomp"].strip()), ("1", "2"))
        mounts = self.machine.run("cat", f"/proc/{pid}/mountinfo").splitlines()
        (top,) = [line.split() for line in mounts if line.split()[4] == "/"][-1:]
        self.assertIn("ro", top[5].split(","))
        self.assertEqual(self.properties(service, "NRestarts")["NRestarts"], "0")

    def check_watchdog(self, service):
        """Notices come while it works; none come of one that stands still, which is then started anew."""
        drop_in = self.root / f"etc/systemd/system/{service}.service.d/watchdog.conf"
        drop_in.parent.mkdir(parents=True)
        drop_in.write_text("[Service]\nWatchdogSec=4s\n")
        self.machine.run("systemctl", "daemon-reload")
        self.machine.run("systemctl", "restart", service)
        first = self.properties(service, "MainPID", "WatchdogTimestampMonotonic")

        def heard():
            now = self.properties(service, "MainPID", "WatchdogTimestampMonotonic")
            self.assertEqual(now["MainPID"], first["MainPID"])
            return int(now["WatchdogTimestampMonotonic"]) > int(first["WatchdogTimestampMonotonic"]) + 5_000_000
        cluster.wait_for(heard, f"notices of {service} for longer than its watchdog waits")
        self.machine.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", service)
        cluster.wait_for(lambda: self.properties(service, "NRestarts")["NRestarts"] == "1", f"{service} to start anew")
        self.wait_active(service)
        shutil.rmtree(drop_in.parent)
        self.machine.run("systemctl", "daemon-reload")
        self.machine.run("systemctl", "restart", service)

    def upgrade(self, job):
        """Services of the new version run, what was changed in /etc stays, and the job at work goes on."""
        changed = self.root / "etc/ham/coordinator.env"
        text = changed.read_text() + 'HAM_COORDINATOR_FLAGS="--metrics-listen 127.0.0.1:7491"\n'
        changed.write_text(text)
        long = self.submit(cluster.spec(**cluster.LONG))
        self.wait_job(long, "RUNNING")
        cluster.wait_for(lambda: "checkpoint" in self.job(long), "a checkpoint")
        old = {service: self.properties(service, "MainPID") for service in SERVICES}
        self.apt("install", *self.inside("next"))
        for service in SERVICES:
            self.wait_active(service)
            self.assertNotEqual(self.properties(service, "MainPID"), old[service])
        for name in PACKAGES:
            self.assertRegex(self.machine.run("dpkg-query", "--show", "--showformat=${Version}", name), r"\+next$")
        self.assertEqual(changed.read_text(), text)
        self.assertIn("# Of the next version.\n", (self.root / "etc/ham/worker.env").read_text())
        cluster.wait_for(lambda: "\nham_" in self.metrics(7491), "metrics at the port that the changed file names")
        self.assertEqual(self.job(job)["state"], "SUCCEEDED")
        self.wait_job(long, "RUNNING")
        self.hamctl("cancel", long)
        self.wait_job(long, "CANCELLED")

    def remove_and_return(self, job):
        """State and configuration outlive a removal, as Debian has it."""
        self.apt("remove", "ham-server")
        self.assertEqual(self.properties("ham-coordinator", "ActiveState", "MainPID"),
                         {"ActiveState": "inactive", "MainPID": "0"})
        self.assertFalse((self.root / "usr/bin/ham-coordinator").exists())
        self.apt("install", self.inside("next")[PACKAGES.index("ham-server")])
        self.wait_active("ham-coordinator")
        self.assertEqual(self.job(job)["state"], "SUCCEEDED")

    def test_without_systemd(self):
        """An image or a chroot: installed and enabled, nothing is started, nothing fails."""
        self.offline("apt-get", "-y", "install", *self.inside("first"))
        for service, state in SERVICES.items():
            self.assertTrue((self.root / f"etc/systemd/system/multi-user.target.wants/{service}.service").is_symlink())
            self.assertIn(f"\n{service}:", (self.root / "etc/passwd").read_text())
            self.assertEqual(list((self.root / "var/lib/ham" / state).iterdir()), [])
        self.offline("apt-get", "-y", "purge", *PACKAGES)
        self.offline("apt-get", "-y", "autoremove", "--purge")
        self.assert_nothing_left()

    def test_control_fields(self):
        for package in self.packages:
            control = fields(package)
            with self.subTest(package=control["Package"]):
                self.assertEqual(control["Architecture"], run("dpkg", "--print-architecture").strip())
                depends = set(re.findall(r"(?:^|, )([a-z0-9.+-]+)", control["Depends"]))
                self.assertLessEqual({"libc6", "libstdc++6", "libgrpc++1.51"}, depends)
                self.assertEqual("adduser" in depends, control["Package"] != "ham-client")
                self.assertNotRegex(control["Depends"], "cuda|torch|nvidia")
                held = run("dpkg-deb", "--contents", package)
                self.assertRegex(held, rf"\./usr/share/doc/{control['Package']}/copyright\n")
                for library, wheel in {"libtorch_cpu.so": "torch-", "libcudart.so": "nvidia_cuda_runtime-",
                                       "libcupti.so": "nvidia_cuda_cupti-"}.items():
                    travels = control["Package"] == "ham-worker"
                    self.assertEqual(library in held, travels)
                    self.assertEqual(f"/licences/{wheel}" in held, travels)


if __name__ == "__main__":
    leave_chroot()
    xml_runner.main()

"""The images of deploy/containers are built and their programs run a job, each with the arguments, mounts, user and
confinement of the manifests of deploy/kubernetes. Root; needs `deploy/install_packages.sh containers` and a build.

Compilation inside of an image is left out, and so are ham-worker-cuda's GPUs: programs come from the build folder."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
os.environ.setdefault("HAM_BIN", str(ROOT / "build" / "bin"))
sys.path.insert(0, str(ROOT / "tests" / "support"))
import cluster  # noqa: E402
import images  # noqa: E402
import manifests  # noqa: E402
import xml_runner  # noqa: E402

COMPOSE = ROOT / "deploy" / "containers" / "compose.yaml"
MEBIBYTE = 1 << 20


def setUpModule():
    global folder, built
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ham-containers-", dir="/var/tmp"))  # some GB, more than memory has
    unittest.addModuleCleanup(remove_folder)
    built = images.Images(folder)
    built.make_base()
    for image in ("coordinator", "worker"):
        built.build(image)
        print(f"ham-{image}: {built.inspect(image)['Size'] // MEBIBYTE} MiB", flush=True)


def remove_folder():
    subprocess.run(["podman", *map(str, built.podman_storage()), "system", "reset", "--force"], capture_output=True)
    shutil.rmtree(folder)


class ImagesTest(unittest.TestCase):
    def test_run_as_a_user_of_their_own(self):
        for image in ("coordinator", "worker"):
            config = built.inspect(image)["Config"]
            self.assertEqual(config["User"], "7480:7480")
            workload = manifests.named(*{"coordinator": ("StatefulSet", "ham-coordinator"),
                                         "worker": ("Deployment", "ham-worker-cpu")}[image])
            self.assertEqual(config["Entrypoint"], [manifests.program(manifests.containers(workload)[0])])
            context = manifests.pod(workload)["securityContext"]
            self.assertEqual(config["User"], f"{context['runAsUser']}:{context['runAsGroup']}")

    def files(self, image):
        name = images.run("buildah", *built.storage, "from", "--pull-never", built.tag(image)).strip()
        self.addCleanup(images.run, "buildah", *built.storage, "rm", name)
        found = images.run("buildah", *built.storage, "run", "--isolation", "chroot", "--user", "root", name, "find", "/",
                           "-xdev", "-type", "f")
        return set(found.splitlines())

    def test_hold_what_runs_and_its_licences(self):
        for image in ("coordinator", "worker"):
            files = self.files(image)
            with self.subTest(image=image):
                documents = f"/opt/ham/share/doc/ham-{'worker' if image == 'worker' else 'server'}"
                self.assertIn(f"{documents}/LICENSE", files)
                for tool in ("g++", "cmake", "python3", "git", "pip3"):
                    self.assertNotIn(f"/usr/bin/{tool}", files)
                licences = {path.split("/")[7] for path in files if path.startswith(f"{documents}/licences/")}
                wheels = {"libtorch": "torch-", "libcudart": "nvidia_cuda_runtime-", "libcupti": "nvidia_cuda_cupti-"}
                for library, wheel in wheels.items():
                    travels = any(re.search(rf"/opt/ham/lib/.*/{library}", path) for path in files)
                    self.assertEqual(travels, image == "worker", library)
                    self.assertEqual(any(name.startswith(wheel) for name in licences), travels, wheel)


class ClusterTest(unittest.TestCase):
    """A coordinator and a worker of the manifests on one node."""

    def setUp(self):
        self.node = images.Node(built)
        self.addCleanup(self.close)
        self.coordinator = manifests.named("StatefulSet", "ham-coordinator")
        self.worker = manifests.named("Deployment", "ham-worker-cpu")
        self.state = manifests.option(manifests.containers(self.coordinator)[0], "state-dir")

    def close(self):
        self.node.close()
        shutil.rmtree(folder / "volumes", ignore_errors=True)

    def hamctl(self, *arguments, check=True):
        program = pathlib.Path(os.environ["HAM_BIN"]) / "hamctl"
        done = subprocess.run([*self.node.inside(), program, *map(str, arguments)], capture_output=True, text=True,
                              timeout=120, env=dict(os.environ, HAM_CONFIG=str(folder / "config.json")))
        if check and done.returncode != 0:
            raise AssertionError(f"hamctl {arguments}: {done.stdout}{done.stderr}")
        return done.stdout

    def start_coordinator(self):
        process = self.node.start(self.coordinator)
        port = manifests.ports(manifests.containers(self.coordinator)[0])["metrics"]

        def ready():
            self.assertIsNone(process.poll(), "the coordinator ended")
            done = subprocess.run([*self.node.inside(), "curl", "--silent", "--output", "/dev/null", "--write-out",
                                   "%{http_code}", f"http://127.0.0.1:{port}/readyz"], capture_output=True, text=True)
            return done.stdout == "200"
        cluster.wait_for(ready, "the coordinator to be ready")

    def give_join_file(self):
        """What kustomization.yaml tells to do, and the kubelet then does."""
        container = manifests.containers(self.worker)[0]
        join = pathlib.PurePath(manifests.option(container, "join"))
        volume = manifests.volume(self.worker, manifests.mount_of(container, join)["name"])
        group = manifests.pod(self.worker)["securityContext"]["fsGroup"]
        file = self.node.directory_for(self.worker, volume, group) / join.name
        file.write_text(self.node.execute(self.coordinator, "cat", f"{self.state}/worker-join"))
        os.chown(file, 0, group)
        file.chmod(volume["secret"]["defaultMode"])

    def log_in(self):
        bootstrap = folder / "bootstrap"
        bootstrap.write_text(self.node.execute(self.coordinator, "cat", f"{self.state}/bootstrap"))
        bootstrap.chmod(0o600)
        self.hamctl("login", "--bootstrap", bootstrap, "--endpoint", "localhost:7480")

    def job(self, name):
        return json.loads(self.hamctl("get", name, "-o", "json"))

    def state_of(self, name):
        return self.job(name)["state"]

    def submit(self, text):
        spec = folder / "job.yaml"
        spec.write_text(text)
        return json.loads(self.hamctl("submit", spec, "-o", "json"))["name"]

    def wait_state(self, job, state):
        cluster.wait_for(lambda: self.state_of(job) == state, f"{job} to be {state}", 300)

    def check_confined(self, workload):
        status = dict(line.split(":", 1) for line in self.node.execute(workload, "cat", "/proc/1/status").splitlines())
        self.assertEqual(set(status["Uid"].split()), {"7480"})
        self.assertEqual(int(status["CapEff"], 16) | int(status["CapBnd"], 16), 0)
        self.assertEqual((status["NoNewPrivs"].strip(), status["Seccomp"].strip()), ("1", "2"))
        with self.assertRaisesRegex(AssertionError, "Read-only file system"):
            self.node.execute(workload, "touch", "/opt/ham/file")

    def test_jobs_restarts_and_stops(self):
        try:
            self.run_jobs()
        except BaseException:
            for log in sorted(folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}")
            raise

    def run_jobs(self):
        self.start_coordinator()
        self.check_confined(self.coordinator)
        test = manifests.documents(COMPOSE)[0]["services"]["coordinator"]["healthcheck"]["test"]
        self.node.execute(self.coordinator, *(word.replace("$$", "$") for word in test[1:]))
        self.give_join_file()
        self.log_in()
        self.node.start(self.worker)
        job = self.submit(cluster.spec())
        self.wait_state(job, "SUCCEEDED")
        self.check_confined(self.worker)

        # The coordinator moves: its volume goes along, with the modes that it demands.
        self.assertEqual(self.node.stop(self.coordinator), 0)
        (claim,) = self.coordinator["spec"]["volumeClaimTemplates"]
        top = self.node.directory_for(self.coordinator, {"name": claim["metadata"]["name"]}, 7480).stat()
        self.assertEqual((top.st_gid, top.st_mode & 0o2770), (7480, 0o2770))  # else the kubelet changes what is below
        self.start_coordinator()
        self.assertEqual(self.state_of(job), "SUCCEEDED")

        # A worker that is evicted costs its job nothing but time since the last checkpoint.
        long = self.submit(cluster.spec(**cluster.LONG))
        self.wait_state(long, "RUNNING")
        cluster.wait_for(lambda: "checkpoint" in self.job(long), "a checkpoint", 120)
        self.assertEqual(self.node.stop(self.worker), 0)
        self.wait_state(long, "QUEUED")
        self.node.start(self.worker)
        self.wait_state(long, "RUNNING")
        self.assertEqual(self.node.stop(self.worker), 0)
        self.assertEqual(self.node.stop(self.coordinator), 0)


class ComposeTest(unittest.TestCase):
    def config(self, text):
        """What docker-compose makes of a file beside the real one, by its schema."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=COMPOSE.parent) as file:
            file.write(text)
            file.flush()
            return subprocess.run(["docker-compose", "--file", file.name, "--profile", "gpu", "config"],
                                  capture_output=True, text=True)

    def setUp(self):
        self.services = manifests.documents(COMPOSE)[0]["services"]

    def test_fits_the_schema(self):
        done = self.config(COMPOSE.read_text())
        self.assertEqual(done.returncode, 0, done.stderr)
        wrong = COMPOSE.read_text().replace("    healthcheck:", "    healthchek:")
        self.assertNotEqual(self.config(wrong).returncode, 0)

    def test_files_are_there(self):
        sources = {volume.split(":")[0] for service in self.services.values() for volume in service.get("volumes", [])}
        for source in sorted(sources):
            if source.startswith(".."):
                with self.subTest(source=source):
                    self.assertTrue((COMPOSE.parent / source).is_dir())

    def test_programs_take_the_arguments(self):
        for name, service in self.services.items():
            image, _, tag = service["image"].partition(":")
            if not image.startswith("ham-") or "entrypoint" in service:
                continue
            with self.subTest(service=name):
                self.assertEqual(tag, manifests.release())
                program = pathlib.Path(os.environ["HAM_BIN"]) / manifests.program({"image": image})
                known = images.run(program, "--help")
                for argument in service["command"]:
                    self.assertIn(argument.split("=")[0] + " ", known)

    def test_services_are_confined(self):
        for name, service in self.services.items():
            with self.subTest(service=name):
                self.assertIs(service["read_only"], True)
                self.assertEqual(service["cap_drop"], ["ALL"])
                self.assertEqual(service["security_opt"], ["no-new-privileges:true"])
                for port in service.get("ports", []):
                    self.assertTrue(port.startswith("127.0.0.1:"), port)

    def test_only_the_join_file_leaves_the_coordinator(self):
        holders = {name for name, service in self.services.items() for volume in service.get("volumes", [])
                   if volume.split(":")[0] == "state"}
        self.assertEqual(holders, {"coordinator", "join"})


if __name__ == "__main__":
    xml_runner.main()

"""The images of deploy/containers, built with buildah, and their programs run with podman as Kubernetes would.

Debian's podman and crun, so as they work where cgroups cannot be managed. Everything lies in one folder."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess

import cluster
import manifests
from debian_root import make_root, run

ROOT = manifests.ROOT
DOCKERFILE = ROOT / "deploy" / "containers" / "Dockerfile"
BASE = "localhost/debian-base"


def components(image):
    """What the Dockerfile installs of a build into this image."""
    stage = DOCKERFILE.read_text().split(f" AS build-{image}\n", 1)[1].split("\nFROM ", 1)[0]
    return re.findall(r"--component (\S+)", stage)


class Images:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.storage = ["--storage-driver", "vfs", "--root", self.folder / "storage", "--runroot", self.folder / "run"]

    def make_base(self):
        """A bare Debian 12 that fetches packages the way this machine does."""
        root = self.folder / "base"
        make_root(root)
        archive = self.folder / "base.tar"
        run("tar", "-C", root, "-cf", archive, ".")
        shutil.rmtree(root)
        run("podman", *self.podman_storage(), "import", archive, BASE)
        archive.unlink()

    def podman_storage(self):
        return [*self.storage, "--tmpdir", self.folder / "tmp", "--cgroup-manager", "cgroupfs"]

    def build(self, image):
        """ham-IMAGE from the programs of the build folder."""
        context = self.folder / "context"
        for component in components(image):
            run("cmake", "--install", ROOT / "build", "--strip", "--prefix", context / image, "--component", component)
        run("buildah", *self.storage, "bud", "--isolation", "chroot", "--file", DOCKERFILE, "--target", image, "--tag",
            self.tag(image), "--build-arg", f"BASE={BASE}", "--build-arg", "TREE=prebuilt", context)
        shutil.rmtree(context)

    def tag(self, image):
        return f"localhost/ham-{image}:{manifests.release()}"

    def inspect(self, image):
        return json.loads(run("podman", *self.podman_storage(), "image", "inspect", self.tag(image)))[0]


class Node:
    """Processes, network and mounts of its own, in which containers run; nothing in it outlives it or this program."""

    def __init__(self, images):
        self.images = images
        ports = {m["value"] for w in manifests.workloads() for m in
                 manifests.pod(w)["securityContext"].get("sysctls", [])}
        (ports,) = ports
        ready = images.folder / "node-ready"
        ready.unlink(missing_ok=True)
        script = (f"set -e; ip link set lo up; echo '{ports}' >/proc/sys/net/ipv4/ip_local_port_range; "
                  # crun 1.8 does not work where both kinds of cgroups are mounted.
                  "! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified; "
                  f"touch {ready}; exec sleep infinity")
        self.holder = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid",
                                        "--fork", "--kill-child", "--mount-proc", "sh", "-c", script])
        self.containers = {}
        cluster.wait_for(lambda: ready.exists() or self.holder.poll() is not None, "the node")
        (self.init,) = cluster.processes_of(self.holder.pid)

    def inside(self):
        return ["nsenter", "--target", str(self.init), "--mount", "--net", "--pid"]

    def podman(self, *arguments, **options):
        return run(*self.inside(), "podman", *self.images.podman_storage(), *arguments, **options)

    def directory_for(self, workload, volume, group):
        """The folder of a volume as the kubelet hands it to a pod with this fsGroup."""
        name = volume["name"]
        if "persistentVolumeClaim" in volume:
            return pathlib.Path("/usr/share/datasets")
        folder = self.images.folder / "volumes" / ("secret" if "secret" in volume else
                                                   f"{workload['metadata']['name']}-{name}")
        if not folder.exists():
            folder.mkdir(parents=True)
            os.chown(folder, 0, group)
            folder.chmod(0o2770 if "secret" not in volume else 0o2755)
        return folder

    def start(self, workload):
        """Runs the container of a workload as its manifest says, with host names as a cluster would have them."""
        pod, (container,) = manifests.pod(workload), manifests.containers(workload)
        context, name = pod["securityContext"], workload["metadata"]["name"]
        options = ["--name", name, "--hostname", name, "--cgroups=disabled", "--network=host", "--log-driver=none",
                   "--add-host", "ham-coordinator.ham.svc:127.0.0.1",
                   "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096",
                   "--user", f"{context['runAsUser']}:{context['runAsGroup']}", "--group-add", str(context["fsGroup"])]
        confined = container["securityContext"]
        if confined["readOnlyRootFilesystem"]:
            options += ["--read-only", "--read-only-tmpfs=false"]
        if not confined["allowPrivilegeEscalation"]:
            options += ["--security-opt=no-new-privileges"]
        options += [f"--cap-drop={capability}" for capability in confined["capabilities"]["drop"]]
        for mount in container["volumeMounts"]:
            source = self.directory_for(workload, manifests.volume(workload, mount["name"]), context["fsGroup"])
            options += ["--volume", f"{source}:{mount['mountPath']}:{'ro' if mount.get('readOnly') else 'rw'}"]
        log = open(self.images.folder / f"{name}.log", "ab")
        image = self.images.tag(container["image"].split(":")[0].removeprefix("ham-"))
        self.containers[name] = subprocess.Popen(
            [*self.inside(), "podman", *map(str, self.images.podman_storage()), "run", "--rm", *options, image,
             *container["args"]], stdout=log, stderr=log)
        return self.containers[name]

    def execute(self, workload, *command):
        return self.podman("exec", workload["metadata"]["name"], *command)

    def stop(self, workload):
        """As the kubelet: SIGTERM, and SIGKILL after the grace period. The exit status of its program."""
        name = workload["metadata"]["name"]
        grace = manifests.pod(workload)["terminationGracePeriodSeconds"]
        self.podman("stop", "--time", grace, name)
        return self.containers.pop(name).wait(timeout=grace)

    def close(self):
        os.kill(self.init, signal.SIGKILL)  # and so all in there
        for process in [*self.containers.values(), self.holder]:
            process.wait()

"""The manifests of deploy/kubernetes: against the schemas of Kubernetes, a policy, and the programs that they start.

No API server is asked: what admission, scheduling and network plugins make of them is not tested here."""
import contextlib
import copy
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import urllib.request

import kubernetes_validate

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))
import cluster  # noqa: E402
import manifests  # noqa: E402
import network_policy  # noqa: E402
import xml_runner  # noqa: E402

OLDEST = "1.27"  # as kustomization.yaml says
BIN = pathlib.Path(os.environ["HAM_BIN"])


def each_container():
    for workload in manifests.workloads():
        for container in manifests.containers(workload):
            yield workload, container


@contextlib.contextmanager
def running_coordinator(*options):
    """Its state directory, and the ports it took."""
    with tempfile.TemporaryDirectory() as folder:
        state, ports = pathlib.Path(folder, "state"), pathlib.Path(folder, "ports")
        process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", BIN / "ham-coordinator", "--state-dir", state,
                                    "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--port-file", ports,
                                    *options], stderr=subprocess.DEVNULL)
        try:
            cluster.wait_for(lambda: ports.exists() or process.poll() is not None, "the coordinator's port file")
            yield state, json.loads(ports.read_text())
        finally:
            process.terminate()
            process.wait(timeout=cluster.WAIT_SECONDS)


def workers():
    return [w for w in manifests.workloads() if w["kind"] == "Deployment"]


class SchemaTest(unittest.TestCase):
    def test_kustomization_names_every_file(self):
        files = {path.name for path in manifests.FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
        resources = manifests.kustomization()["resources"]
        self.assertEqual(sorted(resources), sorted(files))
        self.assertEqual(resources[0], "namespace.yaml")
        self.assertIn(f"({OLDEST} or newer)", manifests.introduction())

    def test_objects_fit_the_schemas(self):
        for version in (OLDEST, kubernetes_validate.utils.latest_version()):
            for document in manifests.objects():
                with self.subTest(version=version, object=f"{document['kind']} {document['metadata']['name']}"):
                    kubernetes_validate.validate(document, version, strict=True)

    def test_schemas_refuse_what_they_do_not_know(self):
        for path, value in ((("replicaz",), 1), (("template", "spec", "containers", 0, "readOnlyRootFilesystem"), True),
                            (("replicas",), "one")):
            document = copy.deepcopy(workers()[0])
            place = document["spec"]
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
            with self.subTest(path=path), self.assertRaises(kubernetes_validate.ValidationError):
                kubernetes_validate.validate(document, OLDEST, strict=True)

    def test_objects_are_in_the_namespace_and_named_once(self):
        seen = set()
        for document in manifests.objects():
            name = document["metadata"]["name"]
            self.assertNotIn((document["kind"], name), seen)
            seen.add((document["kind"], name))
            if document["kind"] != "Namespace":
                self.assertEqual(document["metadata"]["namespace"], "ham", name)


class ConfinementTest(unittest.TestCase):
    def test_namespace_refuses_more(self):
        labels = manifests.named("Namespace", "ham")["metadata"]["labels"]
        self.assertEqual(labels["pod-security.kubernetes.io/enforce"], "restricted")

    def test_pods_are_confined(self):
        for workload in manifests.workloads():
            with self.subTest(workload=workload["metadata"]["name"]):
                pod = manifests.pod(workload)
                context = pod["securityContext"]
                self.assertIs(context["runAsNonRoot"], True)
                self.assertGreater(context["runAsUser"], 0)
                self.assertEqual(context["seccompProfile"], {"type": "RuntimeDefault"})
                self.assertIs(pod["automountServiceAccountToken"], False)
                for key in ("hostNetwork", "hostPID", "hostIPC", "serviceAccountName"):
                    self.assertNotIn(key, pod)
                for volume in pod["volumes"]:
                    self.assertNotIn("hostPath", volume)

    def test_containers_are_confined(self):
        for workload, container in each_container():
            with self.subTest(workload=workload["metadata"]["name"], container=container["name"]):
                self.assertEqual(container["securityContext"], {"allowPrivilegeEscalation": False,
                                                                "readOnlyRootFilesystem": True,
                                                                "capabilities": {"drop": ["ALL"]}})

    def test_containers_ask_for_what_they_use(self):
        for workload, container in each_container():
            with self.subTest(workload=workload["metadata"]["name"]):
                resources = container["resources"]
                self.assertLessEqual({"cpu", "memory"}, set(resources["requests"]))
                self.assertIn("memory", resources["limits"])
                for key, most in resources["limits"].items():
                    if key in ("memory", "cpu", "nvidia.com/gpu") and key in resources["requests"]:
                        ask = resources["requests"][key]
                        value = manifests.quantity if key == "memory" else int
                        self.assertLessEqual(value(ask), value(most), key)

    def test_scratch_is_bounded(self):
        for workload in manifests.workloads():
            for volume in manifests.pod(workload)["volumes"]:
                if "emptyDir" not in volume:
                    continue
                with self.subTest(workload=workload["metadata"]["name"], volume=volume["name"]):
                    size = manifests.quantity(volume["emptyDir"]["sizeLimit"])
                    if volume["emptyDir"].get("medium") == "Memory":  # of the memory of its pod
                        limit = manifests.containers(workload)[0]["resources"]["limits"]["memory"]
                        self.assertLessEqual(size, manifests.quantity(limit) // 4)

    def test_images_are_of_this_release(self):
        release = manifests.release()
        stages = re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "deploy/containers/Dockerfile").read_text(), re.MULTILINE)
        images = {container["image"] for _, container in each_container()}
        for image in images:
            with self.subTest(image=image):
                name, _, tag = image.partition(":")
                self.assertEqual(tag, release)
                self.assertIn(name.removeprefix("ham-"), stages)
        listed = {f"{image['name']}:{image['newTag']}" for image in manifests.kustomization()["images"]}
        self.assertEqual(listed, images)


class ProbesTest(unittest.TestCase):
    """A container with a port has all three probes; one that nobody dials has none, and says so in its manifest."""

    def test_probes_serve(self):
        for workload, container in each_container():
            with self.subTest(workload=workload["metadata"]["name"]):
                paths = {kind: container.get(f"{kind}Probe", {}).get("httpGet") for kind in
                         ("startup", "liveness", "readiness")}
                if container.get("ports"):
                    self.assertEqual(paths, {"startup": {"path": "/healthz", "port": "metrics"},
                                             "liveness": {"path": "/healthz", "port": "metrics"},
                                             "readiness": {"path": "/readyz", "port": "metrics"}})
                else:
                    self.assertEqual(set(paths.values()), {None})

    def test_the_coordinator_answers_them(self):
        container = manifests.containers(manifests.named("StatefulSet", "ham-coordinator"))[0]
        paths = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
        with running_coordinator() as (_, ports):
            for path in sorted(paths):
                with self.subTest(path=path):
                    with urllib.request.urlopen(f"http://{ports['metrics']}{path}", timeout=10) as reply:
                        self.assertEqual(reply.status, 200)

    def test_programs_have_time_to_end(self):
        def seconds(path, name):
            return int(re.search(name + r" = absl::Seconds\((\d+)\)", (ROOT / path).read_text()).group(1))
        needed = (seconds("server/options.h", "terminate_grace") +
                  seconds("worker/agent/assignments.h", "shutdown_flush"))
        for workload in workers():
            self.assertGreaterEqual(manifests.pod(workload)["terminationGracePeriodSeconds"], 2 * needed)
        coordinator = manifests.pod(manifests.named("StatefulSet", "ham-coordinator"))
        self.assertGreaterEqual(coordinator["terminationGracePeriodSeconds"],
                                2 * seconds("server/options.h", "shutdown_grace"))


class ProgramsTest(unittest.TestCase):
    def test_programs_take_the_arguments(self):
        for workload, container in each_container():
            with self.subTest(workload=workload["metadata"]["name"]):
                program = BIN / manifests.program(container)
                known = set(re.findall(r"--[a-z][a-z-]*", subprocess.run([program, "--help"], capture_output=True,
                                                                         text=True, check=True, timeout=60).stdout))
                for argument in container["args"]:
                    self.assertIn(argument.split("=")[0], known)
                # Values too: the one complaint is about what was added.
                done = subprocess.run([program, *container["args"], "--no-such-flag"], capture_output=True, text=True,
                                      timeout=60)
                self.assertEqual(done.returncode, 2)
                complaint = re.findall(r"--[a-z][a-z-]*", done.stderr.split("\n")[0])
                self.assertEqual(complaint, ["--no-such-flag"], done.stderr)

    def test_programs_write_only_where_they_may(self):
        for workload, container in each_container():
            with self.subTest(workload=workload["metadata"]["name"]):
                for path in (manifests.option(container, "state-dir"), "/tmp"):
                    mount = manifests.mount_of(container, path)
                    self.assertIsNotNone(mount, path)
                    self.assertFalse(mount.get("readOnly", False), path)

    def test_state_keeps_its_modes(self):
        """With fsGroup, a volume's files are opened to the group at each mount, unless its top folder is right already;
        a coordinator refuses keys that a group can read."""
        workload = manifests.named("StatefulSet", "ham-coordinator")
        container = manifests.containers(workload)[0]
        self.assertEqual(manifests.pod(workload)["securityContext"]["fsGroupChangePolicy"], "OnRootMismatch")
        state = manifests.option(container, "state-dir")
        mount = manifests.mount_of(container, state)
        self.assertNotEqual(mount["mountPath"], state)
        self.assertIn("claimTemplate", manifests.volume(workload, mount["name"]))

    def test_one_coordinator(self):
        workload = manifests.named("StatefulSet", "ham-coordinator")
        self.assertEqual(workload["spec"]["replicas"], 1)

    def test_gpus(self):
        (workload,) = [w for w in workers() if "nvidia.com/gpu" in
                       manifests.containers(w)[0]["resources"].get("limits", {})]
        container = manifests.containers(workload)[0]
        self.assertEqual(container["image"].split(":")[0], "ham-worker-cuda")
        mount = manifests.mount_of(container, "/dev/shm")
        self.assertEqual(manifests.volume(workload, mount["name"])["emptyDir"]["medium"], "Memory")


class JoinTest(unittest.TestCase):
    """How a worker comes by what the coordinator writes for it."""

    def setUp(self):
        self.coordinator = manifests.named("StatefulSet", "ham-coordinator")
        self.container = manifests.containers(self.coordinator)[0]
        self.service = manifests.named("Service", self.coordinator["spec"]["serviceName"])

    def test_introduction_makes_the_secret_that_workers_mount(self):
        text = manifests.introduction()
        state = manifests.option(self.container, "state-dir")
        pod = f"{self.coordinator['metadata']['name']}-0"
        self.assertIn(f"kubectl -n ham exec {pod} -- cat {state}/worker-join", text)
        self.assertIn(f"kubectl -n ham exec {pod} -- cat {state}/bootstrap", text)
        secret, key = re.search(r"create secret generic (\S+) --from-file=(\S+)=", text).groups()
        for workload in workers():
            container = manifests.containers(workload)[0]
            join = pathlib.PurePath(manifests.option(container, "join"))
            mount = manifests.mount_of(container, join)
            self.assertEqual(str(join), f"{mount['mountPath']}/{key}")
            source = manifests.volume(workload, mount["name"])["secret"]
            self.assertEqual(source["secretName"], secret)
            # Owned by root: its group has to read it, and no more.
            self.assertEqual(source["defaultMode"], 0o440)
            self.assertEqual(manifests.pod(workload)["securityContext"]["fsGroup"],
                             manifests.pod(workload)["securityContext"]["runAsGroup"])

    def test_join_file_names_the_service(self):
        """As a coordinator with these arguments writes it; only addresses and directory are of this machine."""
        (grpc,) = [port["port"] for port in self.service["spec"]["ports"] if port["name"] == "grpc"]
        host = f"{self.service['metadata']['name']}.{self.service['metadata']['namespace']}.svc"
        advertise = [a for a in self.container["args"] if a.startswith("--advertise")]
        with running_coordinator(*advertise) as (state, ports):
            port = ports["listen"].rpartition(":")[2]
            join = json.loads((state / "worker-join").read_text())
        # A port is named in the join file as it is listened on: the service has to have the same.
        self.assertEqual(join["endpoints"], [f"{host}:{port}"])
        self.assertEqual(manifests.option(self.container, "listen").rpartition(":")[2], str(grpc))

    def test_service_reaches_the_coordinator_alone(self):
        selector = {"matchLabels": self.service["spec"]["selector"]}
        reached = [w["metadata"]["name"] for w in manifests.workloads() if
                   network_policy.selects(selector, manifests.pod_labels(w))]
        self.assertEqual(reached, ["ham-coordinator"])
        known = manifests.ports(self.container)
        for port in self.service["spec"]["ports"]:
            self.assertEqual(known[port["targetPort"]], port["port"])
        self.assertIs(self.service["spec"]["publishNotReadyAddresses"], True)

    def test_ports_are_those_listened_on(self):
        self.assertEqual(manifests.ports(self.container), {
            "grpc": int(manifests.option(self.container, "listen").rpartition(":")[2]),
            "metrics": int(manifests.option(self.container, "metrics-listen").rpartition(":")[2])})

    def test_selectors_are_those_of_the_pods(self):
        for workload in manifests.workloads():
            self.assertEqual(workload["spec"]["selector"]["matchLabels"], manifests.pod_labels(workload))

    def test_disruption_budget_is_of_the_workers(self):
        (budget,) = manifests.of_kind("PodDisruptionBudget")
        bound = [w["kind"] for w in manifests.workloads() if
                 network_policy.selects(budget["spec"]["selector"], manifests.pod_labels(w))]
        self.assertEqual(bound, ["Deployment", "Deployment"])
        self.assertEqual(budget["spec"]["maxUnavailable"], 1)


class NetworkTest(unittest.TestCase):
    def setUp(self):
        self.policies = manifests.of_kind("NetworkPolicy")

        def pod(name):
            return network_policy.Pod("ham", next(manifests.pod_labels(w) for w in manifests.workloads() if
                                                  w["metadata"]["name"] == name))
        self.coordinator, self.cpu, self.gpu = map(pod, ("ham-coordinator", "ham-worker-cpu", "ham-worker-gpu"))
        self.prometheus = network_policy.Pod("monitoring", {"app.kubernetes.io/name": "prometheus"})
        self.client = network_policy.Pod("research", {"ham-client": "true"})
        self.stranger = network_policy.Pod("research", {"app": "web"})
        self.stranger_here = network_policy.Pod("ham", {"app": "web"})
        self.dns = network_policy.Pod("kube-system", {"k8s-app": "kube-dns"})
        self.grpc, self.metrics = (manifests.ports(manifests.containers(manifests.named(
            "StatefulSet", "ham-coordinator"))[0])[name] for name in ("grpc", "metrics"))

    def check(self, expected, source, target, port, protocol="TCP"):
        with self.subTest(source=source, target=target, port=port):
            self.assertIs(network_policy.allowed(self.policies, source, target, port, protocol), expected)

    def test_what_flows(self):
        for worker in (self.cpu, self.gpu):
            self.check(True, worker, self.coordinator, self.grpc)
            self.check(True, worker, self.dns, 53, "UDP")
            self.check(True, worker, self.dns, 53)
            for other in (self.cpu, self.gpu):
                self.check(True, worker, other, 32768)
                self.check(True, worker, other, 60999)
        self.check(True, self.client, self.coordinator, self.grpc)
        self.check(True, self.prometheus, self.coordinator, self.metrics)

    def test_nothing_else_does(self):
        for worker in (self.cpu, self.gpu):
            self.check(False, worker, self.coordinator, self.metrics)
            self.check(False, self.coordinator, worker, 40000)
            self.check(False, worker, self.cpu, 22)
            self.check(False, worker, self.cpu, 40000, "UDP")
            self.check(False, worker, self.stranger, 443)
            self.check(False, self.prometheus, worker, 40000)
            self.check(False, self.client, worker, 40000)
        for target in (self.coordinator, self.cpu):
            for port in (self.grpc, self.metrics, 40000):
                self.check(False, self.stranger, target, port)
                self.check(False, self.stranger_here, target, port)
        self.check(False, self.client, self.coordinator, self.metrics)
        self.check(False, self.prometheus, self.coordinator, self.grpc)
        self.check(False, self.coordinator, self.dns, 53, "UDP")
        self.check(False, self.coordinator, self.stranger, 443)

    def test_ranks_listen_where_the_policy_lets_them(self):
        """Ranks bind port 0, so that the kernel takes one of this range."""
        for workload in workers():
            (sysctl,) = manifests.pod(workload)["securityContext"]["sysctls"]
            self.assertEqual(sysctl["name"], "net.ipv4.ip_local_port_range")
            first, last = map(int, sysctl["value"].split())
            for port, expected in ((first - 1, False), (first, True), (last, True), (last + 1, False)):
                self.check(expected, self.cpu, self.gpu, port)


if __name__ == "__main__":
    xml_runner.main()

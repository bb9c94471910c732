"""The manifests of deploy/kubernetes, and what their parts mean."""
import pathlib
import re

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"


class StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping: the first one would be lost in silence."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"\"{key}\" stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def documents(path):
    return list(yaml.load_all(path.read_text(), Loader=StrictLoader))


def kustomization():
    (only,) = documents(FOLDER / "kustomization.yaml")
    return only


def introduction():
    """What the comment before the kustomization tells to do, without its marks."""
    lines = (FOLDER / "kustomization.yaml").read_text().splitlines()
    return "\n".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


def objects():
    """All objects that `kubectl apply -k` makes."""
    return [document for name in kustomization()["resources"] for document in documents(FOLDER / name)]


def of_kind(*kinds):
    return [document for document in objects() if document["kind"] in kinds]


def named(kind, name):
    (only,) = [document for document in of_kind(kind) if document["metadata"]["name"] == name]
    return only


def workloads():
    return of_kind("StatefulSet", "Deployment")


def pod(workload):
    return workload["spec"]["template"]["spec"]


def pod_labels(workload):
    return workload["spec"]["template"]["metadata"]["labels"]


def containers(workload):
    return pod(workload)["containers"] + pod(workload).get("initContainers", [])


def program(container):
    """Of the image's entry point; the images are named after them."""
    return "ham-worker" if container["image"].startswith("ham-worker") else container["image"].split(":")[0]


def option(container, name):
    """Value of --name=value."""
    (value,) = [argument.split("=", 1)[1] for argument in container["args"] if argument.startswith(f"--{name}=")]
    return value


def ports(container):
    return {port["name"]: port["containerPort"] for port in container.get("ports", [])}


def mount_of(container, path):
    """The volume mount in which `path` lies: the deepest one."""
    mounts = [m for m in container["volumeMounts"] if pathlib.PurePath(path).is_relative_to(m["mountPath"])]
    return max(mounts, key=lambda m: len(m["mountPath"])) if mounts else None


def volume(workload, name):
    claims = [{"name": claim["metadata"]["name"], "claimTemplate": claim["spec"]}
              for claim in workload["spec"].get("volumeClaimTemplates", [])]
    (only,) = [v for v in pod(workload).get("volumes", []) + claims if v["name"] == name]
    return only


def release():
    """The version of the project."""
    return re.search(r"project\(ham VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text()).group(1)


def quantity(text):
    """Of memory or disk, in bytes."""
    number, unit = re.fullmatch(r"([0-9]+)(Ki|Mi|Gi|Ti)", text).groups()
    return int(number) << {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40}[unit]

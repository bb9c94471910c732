"""A worker with GPUs: a scripted library stands in the place of NVML, and ham-trainer in that of ham-trainer-cuda: it
has no CUDA, and says so."""
import os

from cluster import BIN


def scripted_gpus(folder, programs=("ham-trainer", "ham-trainer-cuda")):
    """What Cluster.start_worker takes to start one, whose `programs` are in the folder. While there is a file `busy`
    in it, somebody else uses its last GPU."""
    (folder / "libnvidia-ml.so.1").symlink_to(os.environ["HAM_SCRIPTED_NVML"])
    for program in programs:
        (folder / program).symlink_to(BIN / "ham-trainer")
    return {"options": ["--trainer", folder / "ham-trainer"],
            "environment": {"LD_LIBRARY_PATH": str(folder), "HAM_NVML_BUSY": str(folder / "busy")}}

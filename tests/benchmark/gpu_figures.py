"""What tests/gpu measured on a GPU: the newest results of each stage that lie in tests/gpu/results."""
import json

from figure import Figure, Skip

EPOCHS, TRAIN_ROWS = 120, 50000


def stage(root, name, holds=lambda outcome: True):
    """The newest outcome of a stage that `holds`, and what it was measured on."""
    known = [json.loads(path.read_text()) for path in (root / "tests" / "gpu" / "results").glob("*.json")]
    known = [results for results in known if name in results["stages"] and holds(results["stages"][name])]
    if not known:
        raise Skip(f"tests/gpu/run.sh has not yet been through {name} on a GPU")
    newest = max(known, key=lambda results: results["time"])
    device = newest["device"]
    note = f"; {newest['note']}" if "note" in newest else ""
    return newest["stages"][name], (f"{device['name']}, driver {device['driver']}, {newest['time'][:10]}, commit "
                                    f"{newest['commit'][:8]}{note}")


def comparison(root, name):
    benchmarks, where = stage(root, "benchmarks", lambda outcome: name in outcome.get("comparisons", {}))
    return benchmarks["comparisons"][name], where


def programs_of(found, *names):
    for name in names:
        if "failed" in found["programs"][name]:
            raise RuntimeError(f"{name}: {found['programs'][name]['failed']}")
    return [found["programs"][name] for name in names]


def times_faster(root, name, peer, stated=()):
    found, where = comparison(root, name)
    # In other rounds programs also record or compile what they do not know yet.
    ours, theirs = programs_of(found, f"{name}-bf16", peer)
    speed = ours["highest"]
    also = "".join(f"; {speed / programs_of(found, other)[0]['highest']:.3g}x {other}" for other in stated)
    return speed / theirs["highest"], (
        f"PreActResNet-18, CIFAR-10, bf16, the same rows hard ({ours['hard_share']:.2f} of them); the fastest of "
        f"{ours['rounds']} rounds in turn, {speed:.0f} (median {ours['images_per_second']:.0f}) against "
        f"{theirs['highest']:.0f} ({theirs['images_per_second']:.0f}) images/s{also}; {where}")


def best_share_of_peak(root):
    shares = {}
    for batch in (128, 512, 1024):
        found, where = comparison(root, f"ham-{batch}")
        if profile := found["profiles"].get(f"ham-{batch}-bf16"):
            shares[batch] = share_of_peak(profile)
    return max(shares.values()), ", ".join(f"{share:.1f} % at {batch} rows" for batch, share in shares.items()) + f"; {where}"


def share_of_peak(profile):
    if "failed" in profile:
        raise RuntimeError(profile["failed"])
    return 100 * float(profile["model_flops_utilization"])


def wide_share_of_peak(root):
    found, where = comparison(root, "wrn-pgd-at-128")
    profile = found["profiles"]["wrn-pgd-at-128-bf16"]
    return share_of_peak(profile), f"128 rows, {profile['images_per_second']:.0f} images/s; {where}"


def waits(root):
    correctness, where = stage(root, "correctness")
    for test in correctness["tests"]:
        if count := test["measured"].get("waits_of_three_steps"):
            return int(count) / 3, f"as the engine and LibTorch count them, over three steps; {where}"
    raise Skip("the newest run of tests/gpu did not count them")


def memory(root):
    found, where = comparison(root, "ham-1024")
    ours, theirs = programs_of(found, "ham-1024-bf16", "tuned-replayed")
    return 100 * ours["peak_bytes"] / theirs["peak_bytes"], (
        f"{ours['peak_bytes'] / 2**30:.1f} GiB against {theirs['peak_bytes'] / 2**30:.1f}; {where}")


def proposals(root):
    evaluation, where = stage(root, "evaluation")
    if "failed" in evaluation:
        raise RuntimeError(evaluation["failed"])
    bf16, fp32 = (100 * evaluation[precision]["robust_accuracy"] for precision in ("bf16", "fp32"))
    return bf16 - fp32, f"{bf16:.2f} and {fp32:.2f} % of {evaluation['bf16']['rows']} images; {where}"


def whole_run(root):
    epochs, where = stage(root, "epochs")
    ham, first = epochs["ham"], epochs["pgd-at"]
    validation = [e for e in ham["evaluations"] if e["split"] == "validation"]
    full = next(e["evaluation_seconds"] for e in ham["evaluations"] if e["split"] == "test")
    # The first of three epochs records what the others replay.
    epoch = {name: TRAIN_ROWS / max(one["images_per_second"][1:]) for name, one in (("ham", ham), ("pgd-at", first))}
    evaluation = min(e["evaluation_seconds"] for e in validation)
    minutes = (EPOCHS / 2 * (epoch["pgd-at"] + epoch["ham"]) + EPOCHS * evaluation + full) / 60
    return minutes, (f"reckoned: half of the epochs PGD-AT ({epoch['pgd-at']:.1f} s each), half HAM ({epoch['ham']:.1f} s), "
                     f"an evaluation after each ({evaluation:.1f} s), the full test once ({full:.1f} s); batch 128; {where}")


# Robust accuracy that AutoAttack leaves of a usual PreActResNet-18, and what it is after each attack.
USUAL_SURVIVORS = {"apgd": 0.52, "apgd-t": 0.48, "fab-t": 0.48, "square": 0.48}


def autoattack(root):
    found, where = stage(root, "autoattack")
    if "failed" in found:
        raise RuntimeError(found["failed"])
    rows = found["rows"]
    seconds = sum(attack["seconds"] / (attack["rows_tried"] - attack["rows_broken"]) * rows * USUAL_SURVIVORS[attack["name"]]
                  for attack in found["attacks"])
    parts = ", ".join(f"{attack['name']} {attack['seconds']:.0f} s" for attack in found["attacks"])
    return seconds / 60 * 10000 / rows, (
        f"PreActResNet-18, bf16; reckoned from a network of six epochs, of {100 * found['clean_accuracy']:.0f} % clean and "
        f"{100 * found['attacks'][-1]['robust_accuracy']:.0f} % robust accuracy, that took {found['wall_seconds'] / 60:.1f} min "
        f"({parts}), for one of 48 %: what takes time are the rows that no attack breaks; {where}")


def after_signal(root, what, moment, how):
    found, where = stage(root, "service")
    if "failed" in found:
        raise RuntimeError(found["failed"])
    return found["faults"][what][moment], f"{how}; the reason: {found['faults'][what]['message'].rstrip('.')}; {where}"


def foreign_use(root):
    found, where = stage(root, "service")
    if "failed" in found:
        raise RuntimeError(found["failed"])
    return found["foreign"]["found_seconds"], (
        "2 GiB taken by another process some seconds after a rank of ham had ended there, until no rank would be placed; "
        f"told: {found['foreign']['message'].split(': ', 1)[1].split(': end')[0]}; {where}")


FIGURES = [
    Figure("GPU: HAM step, times faster than published PyTorch", 8, "x", True,
           lambda root: times_faster(root, "ham-128", "published-replayed")),
    Figure("GPU: HAM step, times faster than tuned PyTorch", 1.5, "x", True,
           lambda root: times_faster(root, "ham-128", "tuned-replayed", ["compiled-replayed"])),
    Figure("GPU: HAM, best share of matmul peak of 128, 512 and 1,024 rows", 0, " %", True, best_share_of_peak),
    Figure("GPU: PGD-AT of WRN-34-10, share of matmul peak", 50, " %", True, wide_share_of_peak),
    Figure("GPU: 120 epochs of CIFAR-10 with evaluations", 12, " min", False, whole_run),
    Figure("GPU: waits of the host in a HAM step", 1, "", False, waits),
    Figure("GPU: PGD-20 by bf16 proposals, robust accuracy over that by fp32", 0.1, " points", False, proposals),
    Figure("GPU: AutoAttack on 10,000 CIFAR-10 images", 3, " min", False, autoattack),
    Figure("GPU: memory of a HAM step of 1,024 rows, of tuned PyTorch's", 60, " %", False, memory),
    Figure("GPU: trainer killed, training again", 10, " s", False, lambda root: after_signal(
        root, "killed", "first_metrics_seconds", "SIGKILL under a coordinator and a worker, to metrics of the next step")),
    Figure("GPU: trainer stopped, verdict that names its rank", 20, " s", False, lambda root: after_signal(
        root, "stopped", "declared_seconds", "SIGSTOP, --hang-bound 20s, to the event of the failed attempt")),
    Figure("GPU: use by another process, found", 15, " s", False, foreign_use),
]


def table_rows(root):
    """Goal and outcome of each figure, for README."""
    rows = []
    for figure in FIGURES:
        result = figure.run(root)
        measured = result["verdict"] != "skipped"
        outcome = f"{result['value']} ({result['verdict']})" if measured else "not measured"
        rows.append([figure.name.removeprefix("GPU: "), figure.goal_text() if figure.goal else "stated", outcome,
                     result["how"]])
    return rows

"""Faults drawn from a seed: what, when, to whom and for how long. Pure; the same seed gives the same schedule."""
import dataclasses
import random

LEASE = 3.0       # seconds, of the coordinator under test
HANG_BOUND = 6.0  # likewise; where ticks are known, half of it
QUICK = ["--lease", f"{LEASE}s", "--hang-bound", f"{HANG_BOUND}s"]

# kind: (weight, what it holds while it lasts, how long: "down" or "long" or "short")
KINDS = {
    "kill_coordinator": (3, "coordinator", "down"),
    "stop_coordinator": (2, "coordinator", "long"),
    "fill_coordinator": (1, "coordinator", "long"),
    "clock_coordinator": (1, "coordinator", "long"),
    "kill_agent": (3, "worker", "down"),
    "stop_agent": (2, "worker", "long"),
    "stop_host": (2, "worker", "long"),
    "fill_worker": (1, "worker", "long"),
    "clock_agent": (1, "worker", "long"),
    "kill_trainer": (4, None, "short"),
    "stop_trainer": (3, None, "long"),
    "cut_ranks": (2, None, "short"),
    "cut": (3, "link", "down"),
    "silence": (2, "link", "long"),
    "half_up": (2, "link", "long"),
    "half_down": (2, "link", "long"),
    "slow": (1, "link", "long"),
    "throttle": (1, "link", "long"),
    "unplug": (2, "link", "long"),
    "kill_watcher": (1, None, "short"),
}
ONCE = "drop_artifacts"  # in each run


@dataclasses.dataclass(frozen=True)
class Fault:
    at: float        # seconds from the beginning
    kind: str
    worker: int      # whom it meets, where that is a worker or its connection
    seconds: float   # until it is healed
    pick: float      # [0, 1): which one of several, where only the moment tells who is there; or how strong


def draw(seed, seconds, workers, kinds):
    """Faults in order of time, all healed before `seconds`. Two of them never hold the same program or connection."""
    chance = random.Random(seed)
    weights = [KINDS[kind][0] for kind in kinds]
    free_at = {}
    faults = []
    at = 0.0
    while True:
        at += chance.uniform(0.2, 2.0)
        kind, = chance.choices(kinds, weights)
        worker = chance.randrange(workers)
        lasts = _length(chance, KINDS[kind][2])
        pick = chance.random()
        if at + 1.0 > seconds:
            break
        lasts = min(lasts, seconds - at)
        holds = KINDS[kind][1]
        held = holds if holds in (None, "coordinator") else f"{holds}-{worker}"
        if held is not None:
            if free_at.get(held, 0.0) > at:
                continue
            free_at[held] = at + lasts + 0.5
        faults.append(Fault(round(at, 3), kind, worker, round(lasts, 3), pick))
    faults.append(Fault(round(seconds * chance.uniform(0.3, 0.7), 3), ONCE, 0, 0.0, chance.random()))
    return sorted(faults, key=lambda fault: fault.at)


def _length(chance, how):
    if how == "short":
        return 0.0
    if how == "down":
        return chance.uniform(0.0, 1.5)
    bound = chance.choice([LEASE, HANG_BOUND / 2])
    return bound * (chance.uniform(0.2, 0.9) if chance.random() < 0.5 else chance.uniform(1.2, 2.5))

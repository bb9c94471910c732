#!/usr/bin/env python3
"""Breaks a coordinator and its workers, real processes, at random under a stream of small training jobs; then all is
healed, and every job must have ended as if nothing had happened.

  chaos.py [--seconds N] [--seed S]                               faults of all kinds for N seconds
  chaos.py --trials coordinator|coordinator-training|trainer|agent --count N    kill -9, again and again
  chaos.py --trials stop --count N                                stops of ranks below their bound: nothing may happen
  chaos.py --load N [--seconds N]                                 no fault, but N busy processes beside

HAM_BIN names the folder of the programs. A failure says what broke, and its logs stay; exit status 1 then.
"""
import argparse
import collections
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "support")]
import ledger  # noqa: E402
import schedule  # noqa: E402
import trials  # noqa: E402
from cluster import wait_for  # noqa: E402
from jobs import PATIENCE_SECONDS, VARIANTS, Stream, undisturbed  # noqa: E402
from outcome import digest_of  # noqa: E402
from scene import Scene, wait_until  # noqa: E402

WORKERS = 3
OUTSTANDING = 3


def break_things(scene, stream, faults, say):
    """Injects and heals them at their time; counts by kind of those that met somebody."""
    begin = time.monotonic()
    todo = [(fault.at, number, fault, None) for number, fault in enumerate(faults)]
    met = collections.Counter()
    while todo:
        todo.sort(key=lambda one: one[:2])
        at, number, fault, heal = todo.pop(0)
        wait_until(begin + at)
        if heal is not None:
            heal()
            continue
        heal = scene.inject(fault, stream)
        met[fault.kind] += heal is not None
        say(f"{at:7.2f} {fault.kind} {fault.worker} for {fault.seconds} s{'' if heal else ': nobody there'}")
        if heal is not None:
            todo.append((at + fault.seconds, number, fault, heal))
    return met


def chaos(folder, seed, seconds, say):
    """(faults, jobs, digest of what undisturbed runs gave, what broke)."""
    with Scene(folder, WORKERS) as scene:
        for kind, why in sorted(scene.missing.items()):
            print(f"no {kind}: {why}")
        expected, first = undisturbed(scene.cluster)
        stream = Stream(scene.cluster, seed, OUTSTANDING, VARIANTS, expected, first)
        stream.start()
        met = break_things(scene, stream, schedule.draw(seed, seconds, WORKERS, scene.kinds), say)
        stream.submit_no_more()
        try:
            for i in scene.excluded():
                scene.kill_agent(i)
                scene.start_agent(i)
            wait_for(stream.idle, "the end of all jobs after all was healed", PATIENCE_SECONDS)
            stream.judge_all()
        except AssertionError as error:
            stream.problems.append(f"{error}; left: {sorted(stream.running)}")
        stream.close()
    stream.problems += [f"left behind: {one}" for one in wait_gone(scene)]
    return met, len(stream.ended), digest_of(expected), stream.problems


def wait_gone(scene):
    """What is still there after a moment: a trainer whose agent was killed dies a little later."""
    end = time.monotonic() + 20
    while (left := scene.left_behind()) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, help="default: 35; of trials, no limit")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    parser.add_argument("--trials", choices=sorted(trials.KINDS))
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--load", type=int)
    parser.add_argument("--ledger", type=pathlib.Path, nargs="?", const=ledger.FILE,
                        help="add a line to this file, by default that beside this program")
    arguments = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ham-chaos-"))
    print(f"seed {arguments.seed}, logs in {folder}", flush=True)
    begin, commit = time.monotonic(), ledger.current_commit()

    def say(text):
        print(text, flush=True)
    seconds = arguments.seconds or 35
    if arguments.trials:
        faults, jobs, digest, problems = trials.run(arguments.trials, folder, arguments.seed, arguments.count,
                                                    arguments.seconds or float("inf"), say)
    elif arguments.load:
        faults, jobs, digest, problems = trials.loaded(folder, arguments.seed, seconds, arguments.load)
    else:
        faults, jobs, digest, problems = chaos(folder, arguments.seed, seconds, say)
    mode = arguments.trials or ("load" if arguments.load else "chaos")
    run = ledger.Run(arguments.seed, mode, round(time.monotonic() - begin), faults, jobs, digest,
                     "; ".join(problems) or "ok", commit)
    if arguments.ledger:
        ledger.append(run, arguments.ledger)
    for problem in problems:
        print(f"broken: {problem}")
    print(f"{'failed' if problems else 'ok'}: {sum(faults.values())} faults, {jobs} jobs, {run.seconds} s, seed "
          f"{arguments.seed}", flush=True)
    if problems:
        print(f"logs are in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

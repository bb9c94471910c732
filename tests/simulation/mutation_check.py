#!/usr/bin/env python3
"""How strong the simulation is: each mutation of mutations.txt must be caught within a million events.

  tests/simulation/mutation_check.py [--build build] [--only N]... [--result tests/simulation/mutation_result.txt]

Builds the core with one mutation at a time, links it to the simulation, and walks. Needs a build with the target
simulate. Exit status 1 when one is not caught.
"""
import argparse
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
EVENTS = 1_000_000


def mutations():
    lines = [line for line in (HERE / "mutations.txt").read_text().splitlines() if not line.startswith("#")]
    blocks = [block.splitlines() for block in "\n".join(lines).strip().split("\n\n")]
    return [(file, old[1:], new[1:]) for file, old, new in blocks]


def commands(build, target):
    listed = subprocess.run(["ninja", "-C", build, "-t", "commands", target], capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def compile_mutant(build, folder, file, old, new):
    """The object of all files of the core."""
    text = (ROOT / file).read_text()
    if text.count(f"\n{old}\n") != 1:
        sys.exit(f"{file} has the line {old!r} {text.count(old)} times: bring mutations.txt up to date")
    mutant = folder / file
    mutant.parent.mkdir(parents=True, exist_ok=True)
    mutant.write_text(text.replace(f"\n{old}\n", f"\n{new}\n"))
    core = re.search(r"add_library\(ham_core STATIC([^)]*)\)", (ROOT / "server/CMakeLists.txt").read_text())
    sources = [folder / "server" / s if f"server/{s}" == file else ROOT / "server" / s for s in core[1].split()]
    (folder / "core.cc").write_text("".join(f'#include "{source}"\n' for source in sources))
    command = next(c for c in commands(build, "server/libham_core.a") if "ham_core.dir" in c and " -c " in c)
    words = shlex.split(command)
    words[words.index("-c") + 1] = str(folder / "core.cc")
    words[words.index("-o") + 1] = str(folder / "core.o")
    words += ["-w", "-MF", str(folder / "core.d")]  # a line that is gone leaves unused names
    subprocess.run(words, cwd=build, check=True)


def link_mutant(build, folder):
    command = [c for c in commands(build, "simulate") if "bin/simulate" in c and " -o " in c][-1]
    words = shlex.split(command.replace("server/libham_core.a", str(folder / "core.o")))
    words[words.index("-o") + 1] = str(folder / "simulate")
    words = words[words.index("&&") + 1:] if "&&" in words else words
    words = words[:words.index("&&")] if "&&" in words else words
    subprocess.run(words, cwd=build, check=True)


def events_until_caught(folder):
    """And by what; None if nothing was."""
    try:
        done = subprocess.run([folder / "simulate", "walks", "--events", str(EVENTS), "--no-shrink"],
                              capture_output=True, text=True, timeout=1800)
    except subprocess.TimeoutExpired:
        return None, "it walks for ever"
    if done.returncode == 0:
        return None, "not caught"
    events = re.search(r"walks=\d+ events=(\d+)", done.stdout)
    if events:
        promise = re.search(r"^seed \d+, event \d+: ([^:]*)", done.stdout, re.M)
        return int(events[1]), promise[1]
    walks = done.stdout.count("walk ")
    return walks * 40_000, "it stops itself: " + done.stderr.strip().splitlines()[-1].split(": ")[1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default="build")
    parser.add_argument("--only", type=int, action="append", help="number of a mutation, from 1")
    parser.add_argument("--result", help="file that gets the table")
    options = parser.parse_args()
    build = pathlib.Path(options.build).resolve()
    table, missed = [], 0
    for number, (file, old, new) in enumerate(mutations(), 1):
        if options.only and number not in options.only:
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            compile_mutant(build, folder, file, old, new)
            link_mutant(build, folder)
            events, how = events_until_caught(folder)
        missed += events is None
        table.append(f"{number:2} {events or '-':>8} {file.removeprefix('server/')}: {old.strip()[:60]} | {how}")
        print(table[-1], flush=True)
    text = f"Mutation, events until caught, file and line, promise. {len(table) - missed} of {len(table)} caught.\n"
    if options.result:
        pathlib.Path(options.result).write_text(text + "\n".join(table) + "\n")
    print(text, end="")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""A bare Debian 12 in a folder, as debootstrap makes it. Needs root."""
import pathlib
import shutil
import subprocess


def run(*command, **options):
    """Standard output of a command that must succeed."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          **options)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-3000:]}"
                             f"{done.stderr[-3000:]}")
    return done.stdout


def make_root(root, packages=()):
    """One that fetches packages the way this machine does; `packages` are there already."""
    run("debootstrap", "--variant=minbase", f"--include={','.join(['ca-certificates', *packages])}", "bookworm", root)
    shutil.copytree("/etc/apt", root / "etc/apt", dirs_exist_ok=True, symlinks=True)
    if not pathlib.Path("/etc/apt/sources.list").exists():
        (root / "etc/apt/sources.list").unlink(missing_ok=True)
    for file in root.glob("var/cache/apt/archives/*.deb"):
        file.unlink()

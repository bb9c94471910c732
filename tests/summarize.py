#!/usr/bin/env python3
"""Adds up the JUnit files of a folder and those below it: lists failures and skips, ends with `N passed, N failed, N skipped`."""
import argparse
import os
import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def cases_of(path, failed):
    """Test cases of one JUnit file; one that cannot be read is a failure itself."""
    try:
        return list(ElementTree.parse(path).getroot().iter("testcase"))
    except (ElementTree.ParseError, OSError) as error:
        failed.append(f"{path}: {error}")
        return []


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results")
    parser.add_argument("--status", type=int, default=0, help="exit status of the runner; not 0 is a failure")
    parser.add_argument("--ctest", help="CTest's own file: its tests that wrote none of their own count as one each")
    arguments = parser.parse_args()
    here = pathlib.Path(__file__).parent
    allowed = [line.split("#")[0].strip() for line in (here / "allowed_skips").read_text().splitlines()]
    allowed = {line for line in allowed if line}
    passed, failed, skipped = 0, [], []
    results = pathlib.Path(arguments.results)
    for path in sorted(results.rglob("*.xml")):
        # The same test of another build lies in a folder of its own.
        build = "" if path.parent == results else str(path.parent.relative_to(results)) + "/"
        for case in cases_of(path, failed):
            plain = f"{case.get('classname')}.{case.get('name')}"
            name = build + plain
            skip = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                failed.append(name)
            elif skip is not None or case.get("result") == "skipped":
                reason = (skip.get("message") or "") if skip is not None else ""
                skipped.append((name, " ".join(reason.split())))
                if os.environ.get("CI") and plain not in allowed:
                    failed.append(name + " (skipped, and not in tests/allowed_skips)")
            else:
                passed += 1
    for case in cases_of(arguments.ctest, failed) if arguments.ctest else []:
        name = case.get("name")
        if (results / f"{name.removeprefix('e2e_')}.xml").exists():
            continue
        if case.get("status") == "run":
            passed += 1
        else:
            failed.append(f"{name} (no results; see its output above)")
    if passed == 0:
        failed.append("no test ran")
    if arguments.status != 0 and not failed:
        failed.append(f"the runner ended with status {arguments.status}; see its output above")
    for name in failed:
        print(f"failed: {name}")
    for name, reason in skipped:
        print(f"skipped: {name}: {reason}")
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

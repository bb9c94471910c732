#!/usr/bin/env python3
"""Writes deploy/grafana/boards from deploy/grafana/source.

  pip install -r deploy/grafana/requirements.txt
  deploy/grafana/make_boards.py [FOLDER]
"""
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from grafana_foundation_sdk.cog.encoder import JSONEncoder  # noqa: E402

from source import cluster, comparison, gpu, job, operations  # noqa: E402

BOARDS = [module.BOARD for module in (cluster, job, comparison, gpu, operations)]


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "boards"
    folder.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        text = JSONEncoder(sort_keys=True, indent=1).encode(board)
        (folder / f"{board.uid}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()

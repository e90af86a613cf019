"""A fork server whose jobs are Python source: `python exec_server.py <folder>`; it lists deaths in a file there."""

import os
import sys
from pathlib import Path

from apphub_assets.forkserver import Door, ForkServer, Limits, Work

FOLDER = Path(sys.argv[1])


def execute(job: str) -> None:
    exec(job, {"folder": FOLDER})


def bury(job: str, cause: str) -> None:
    with (FOLDER / "deaths").open("a") as deaths:
        deaths.write(f"{job}: {cause}\n")


def refresh() -> None:
    (FOLDER / "refreshed").write_text(str(os.getpid()))


if __name__ == "__main__":
    limits = Limits(workers=2, memory_bytes=64 * 2**20, interrupt_grace=0.2)
    ForkServer(Door(FOLDER / "run.sock", wait=True), Work(execute, bury, refresh), limits).serve()

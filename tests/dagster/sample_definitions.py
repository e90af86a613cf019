"""A small code location to run things in: what the launcher and the queue do doesn't depend on what runs."""

import os
import signal

import dagster as dg

VERSION = 1
repositories = dg.DynamicPartitionsDefinition(name="repositories")


@dg.asset(partitions_def=repositories)
def quick() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"parent": os.getppid(), "version": VERSION})


@dg.asset(partitions_def=repositories)
def failing() -> None:
    raise ValueError("the well is dry")


@dg.asset(partitions_def=repositories)
def sleeping(context: dg.AssetExecutionContext) -> None:
    context.log.info("pid %s", os.getpid())
    signal.pause()


@dg.asset(partitions_def=repositories, pool="narrow")
def pooled() -> None:
    signal.pause()


@dg.asset(partitions_def=repositories)
def greedy() -> None:
    hoard = [b"x" * 2**20 for _ in range(100_000)]
    signal.pause()
    hoard.clear()


defs = dg.Definitions(assets=[quick, failing, sleeping, pooled, greedy], executor=dg.in_process_executor)

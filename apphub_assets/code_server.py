"""Dagster's code server, which builds its definitions anew, in place, when datasets come, change or go.

`dagster code-server start` would start a process for that: seconds, and twice the memory. Here the module that lists
the definitions runs again and what it made replaces what was; whoever is being answered goes on with the old. The
webserver and the daemon ask the server for its id each second, and take its definitions when that is a new one.
"""

import argparse
import importlib
import logging
import os
import sys
import threading
import uuid
from contextlib import suppress
from pathlib import Path

from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.utils import FuturesAwareThreadPoolExecutor
from dagster._grpc.__generated__ import dagster_api_pb2
from dagster._grpc.server import DagsterApiServer, DagsterGrpcServer, LoadedRepositories
from dagster._utils.interrupts import setup_interrupt_handlers
from dagster._utils.log import configure_loggers
from sqlalchemy.exc import SQLAlchemyError

from apphub_assets.forkserver import NobodyListens, ask
from apphub_assets.kit.db import Database
from apphub_assets.settings import SettingMissing
from apphub_assets.timestore import definitions as datasets

log = logging.getLogger("dagster.code_server")

LOOK_SECONDS = 1.0
# Many changes in a row make one build: each is work for webserver and daemon too.
PAUSE_SECONDS = 3.0


class CodeServer(DagsterApiServer):
    """Serves the definitions of one module.

    Args:
        module: whose one `Definitions` are served.
        location: what the code location is called.
        threads: answer requests.
        ending: set when the server is to end.
    """

    def __init__(
        self, module: str, location: str, threads: FuturesAwareThreadPoolExecutor, ending: threading.Event
    ) -> None:
        self._module, self._location, self._ending = module, location, ending
        target = LoadableTargetOrigin(
            executable_path=sys.executable, module_name=module, working_directory=str(Path.cwd())
        )
        super().__init__(
            server_termination_event=ending,
            logger=log,
            server_threadpool_executor=threads,
            loadable_target_origin=target,
            container_image=os.environ.get("DAGSTER_CURRENT_IMAGE"),
            location_name=location,
        )

    def ReloadCode(self, _request: object, _context: object) -> dagster_api_pb2.ReloadCodeReply:  # noqa: N802
        """What the UI's button and `reloadRepositoryLocation` ask for. A changed source needs a new process."""
        self.rebuild()
        return dagster_api_pb2.ReloadCodeReply()

    def rebuild(self) -> None:
        """Serve the definitions of now; when they can't be made, the old ones stay."""
        with self._reload_lock:
            importlib.reload(sys.modules[self._module])
            for cached in (ReconstructableJob.get_definition, ReconstructableJob.get_repository_definition):
                cached.cache_clear()
            self._loaded_repositories = LoadedRepositories(
                self._loadable_target_origin,
                self._container_image,
                self._entry_point,
                self._container_context,
                code_location_name=self._location,
            )
            self._server_id = str(uuid.uuid4())

    def watch(self, database: Database) -> None:
        """Rebuild whenever the definitions are outdated, until the server ends."""
        while not self._ending.wait(LOOK_SECONDS):
            try:
                if datasets.is_outdated(database):
                    self._follow()
            except SQLAlchemyError as error:
                log.warning("can't see whether datasets changed: %s", str(error).partition("\n")[0])
                self._ending.wait(PAUSE_SECONDS)

    def _follow(self) -> None:
        try:
            self.rebuild()
        except Exception:
            # The definitions that are served are better than none; what breaks these is in the log.
            log.exception("definitions can't be built")
        else:
            log.info("definitions were built anew, with %d datasets", len(datasets.known.datasets))
            refresh_fork_server()
        self._ending.wait(PAUSE_SECONDS)


def refresh_fork_server() -> None:
    """Tell the fork server, if this machine has one; a run that is quicker builds the definitions itself."""
    if socket := os.environ.get("APPHUB_RUN_SOCKET"):
        with suppress(NobodyListens, TimeoutError):
            ask(Path(socket), {"do": "refresh", "name": ""})


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m apphub_assets.code_server", description="Dagster's code server.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket", help="unix socket to listen on")
    where.add_argument("--port", type=int, help="port to listen on")
    parser.add_argument("--host", default="localhost", help="address to listen on, with --port")
    parser.add_argument("--module-name", default="apphub_assets.definitions", help="definitions to serve")
    parser.add_argument("--location-name", default="apphub", help="name of the code location")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM or SIGINT, as `dagster api grpc` does."""
    options = parse(arguments)
    setup_interrupt_handlers()
    configure_loggers(log_level="INFO")
    ending, threads = threading.Event(), FuturesAwareThreadPoolExecutor(max_workers=None)
    code = CodeServer(options.module_name, options.location_name, threads, ending)
    server = DagsterGrpcServer(ending, code, log, threads, options.host, options.port, options.socket)
    with suppress(SettingMissing):
        database = datasets.connected()
        threading.Thread(target=code.watch, args=(database,), name="dataset-watch", daemon=True).start()
    with suppress(KeyboardInterrupt):
        server.serve()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main(sys.argv[1:])

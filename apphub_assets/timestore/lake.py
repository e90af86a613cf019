"""Opens and closes the lake: the one place that attaches DuckLake, and that knows what DuckDB's errors mean.

A borrower has a DuckDB instance of its own for as long as it works, never a second connection to somebody else's; an
instance whose borrower failed is not lent again. Before one is closed it is rolled back and detached.
"""

import ctypes
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Any
from urllib.parse import urlsplit

import duckdb
import fsspec
import psycopg
import pyarrow as pa
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from apphub_assets.errors import AppHubError
from apphub_assets.kit.ids import new_id
from apphub_assets.settings import Settings
from apphub_assets.timestore import s3
from apphub_assets.timestore.errors import (
    LakeBusy,
    LakeConflict,
    LakeUnavailable,
    QueryTooBig,
    QueryTooLong,
    StorageMoved,
)
from apphub_assets.timestore.spec import quote

EXTENSIONS = ("ducklake", "postgres_scanner", "httpfs")
# What DuckDB does not read by itself, fsspec does.
THROUGH_FSSPEC = {"gs", "gcs", "abfs", "abfss", "az", "adl", "memory"}
KINDS = {"s3": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure_blob", "abfss": "azure_blob", "az": "azure_blob"}
BATCH_ROWS = 8192
# Each may meet the next flush.
FRESH_STARTS = 3
NO_FRESH_START = (
    duckdb.InterruptException, duckdb.OutOfMemoryException, duckdb.BinderException, duckdb.ParserException,
)  # fmt: skip
# Fewer rows than that go into Postgres until they are flushed. The same for all who ever change the lake: one who
# inlines nothing makes no table for inlined rows when it alters columns, and others then write into that of before.
INLINE_ROWS = 1000
PREPARATION = 7_204_117_002
# The last three are what an instance that was idle meets when a flush has taken away tables it knows, see `_stream`: it
# is not lent again, and the next one does not know them.
CONFLICT = re.compile(
    r"transaction conflict|duplicate key value|current transaction is aborted"
    r'|relation "timestore\.ducklake_inlined_|attempted to access index 0 within vector of size 0',
    re.IGNORECASE,
)
ERRORS = {
    "INTERRUPT": duckdb.InterruptException,
    "Out of Memory": duckdb.OutOfMemoryException,
    "Out of Range": duckdb.OutOfRangeException,
    "Conversion": duckdb.ConversionException,
    "IO": duckdb.IOException,
    "HTTP": duckdb.HTTPException,
}
# The last is all that is said when the connection is lost during a commit.
SIGNS_OF_ABSENCE = (
    "onnection", "server closed", "shutting down", "starting up", "IO Error", "HTTP", "No space left",
    'execute query "ROLLBACK"',
)  # fmt: skip
PASSWORD = re.compile(r"password=('(?:[^'\\]|\\.)*'|\S+)")

Connection = duckdb.DuckDBPyConnection


@dataclass(frozen=True)
class Access:
    """How an instance may use the lake, and how much of the machine."""

    read_only: bool
    memory_bytes: int


@dataclass(frozen=True)
class Recipe:
    """How another process opens the lake for reading, without this module: it needs DuckDB alone, and starts fast.

    `statements` hold passwords. `filesystems` are those to register from fsspec. `places` are the folders and URLs
    that hold files, each with a slash at its end.
    """

    config: dict[str, str]
    filesystems: list[str]
    statements: list[str]
    places: list[str]


class Lake:
    """The lake of these settings. Cheap to make; opened at first use; safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._prepared = threading.Lock()
        self._is_prepared = False
        self._readers = _Pool(settings.query_concurrency)
        self._writers = _Pool(2)

    @property
    def data_path(self) -> str:
        """Where the default target's files are; without a slash at its end, see duckdb/ducklake issue 815."""
        return f"{self._settings.storage}/timestore"

    @property
    def target_bytes(self) -> int:
        """The size up to which files are merged."""
        return self._settings.compact_target_bytes

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Lend an instance that can only read; at most APPHUB_QUERY_CONCURRENCY are lent at once.

        Raises:
            LakeBusy, LakeUnavailable, StorageMoved: none came free in time; the lake can't be opened.
        """
        access = Access(read_only=True, memory_bytes=self._settings.query_memory_bytes)
        with self._lent(self._readers, access) as loan:
            yield loan.connection

    @contextmanager
    def query(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[pa.RecordBatchReader]:
        """Stream the answer to a SELECT; the instance is lent for as long as the block lasts.

        Raises:
            LakeBusy, LakeUnavailable, StorageMoved: none came free in time; the lake can't be opened or read.
            QueryTooLong, QueryTooBig: it took more than APPHUB_QUERY_TIMEOUT, or more memory and disk than it may.
        """
        access = Access(read_only=True, memory_bytes=self._settings.query_memory_bytes)
        with self._lent(self._readers, access) as loan, self._bounded(loan), told_by_arrow():
            yield self._stream(loan, access, sql, parameters)

    def _stream(self, loan: "_Loan", access: Access, sql: str, parameters: Sequence[Any]) -> pa.RecordBatchReader:
        """Start a query; what fails is tried again on a new instance.

        A reader remembers which tables hold inlined rows. When a flush removes one that a change of schema had made
        superfluous, it goes on asking for it until it is attached anew (duckdb/ducklake issues 1305 and 1413); the
        error then is an internal one, or only that the transaction was aborted.
        """
        for _ in range(FRESH_STARTS):
            try:
                return loan.connection.execute(sql, parameters).to_arrow_reader(BATCH_ROWS)
            except NO_FRESH_START:
                raise
            except duckdb.Error:
                _close(loan.connection)
                loan.connection = self._open(access)
        return loan.connection.execute(sql, parameters).to_arrow_reader(BATCH_ROWS)

    @contextmanager
    def _bounded(self, loan: "_Loan") -> Iterator[None]:
        seconds = self._settings.query_timeout
        timer = threading.Timer(seconds, lambda: loan.connection.interrupt())  # noqa: PLW0108 whichever it is by then
        timer.start()
        try:
            yield
        except duckdb.InterruptException:
            raise QueryTooLong(
                f"the query took more than {seconds:g} s (APPHUB_QUERY_TIMEOUT); ask for less at once"
            ) from None
        except duckdb.OutOfMemoryException as error:
            raise QueryTooBig(
                "the query needs more than APPHUB_QUERY_MEMORY_BYTES and APPHUB_QUERY_TEMP_BYTES allow;"
                " ask for fewer columns, for less time at once, or for totals"
            ) from error
        finally:
            timer.cancel()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Lend an instance that can write. What the borrower did not commit is rolled back.

        Raises:
            LakeBusy, LakeUnavailable, StorageMoved: none came free in time; the lake can't be opened.
        """
        access = Access(read_only=False, memory_bytes=self._settings.write_memory_bytes)
        with self._lent(self._writers, access) as loan:
            yield loan.connection

    @contextmanager
    def maintaining(self) -> Iterator[Connection]:
        """A new instance for work on files, which takes none from those who write.

        One that was idle may not know of what a flush took away meanwhile, see `_stream`.

        Raises:
            LakeUnavailable, StorageMoved: the lake can't be opened.
        """
        self.prepare()
        access = Access(read_only=False, memory_bytes=self._settings.upkeep_memory_bytes)
        with self.opened(access) as connection:
            connection.execute(f"SET ducklake_target_file_size = '{self.target_bytes}B'")
            yield connection

    @contextmanager
    def opened(self, access: Access) -> Iterator[Connection]:
        """A new instance that is closed at the end of the block."""
        connection = self._open(access)
        try:
            with translated():
                yield connection
        finally:
            _close(connection)

    def recipe(self, memory_bytes: int) -> Recipe:
        """How to open it so that nothing can be written: not even by what knows a way into the catalog's database."""
        access = Access(read_only=True, memory_bytes=memory_bytes)
        options = f"{conninfo_to_dict(self._conninfo).get('options') or ''} -c default_transaction_read_only=on"
        return Recipe(
            config={name: str(value) for name, value in self._config(access).items()},
            filesystems=sorted(self._schemes & THROUGH_FSSPEC),
            statements=[*self._loading(), self._attach(access, make_conninfo(self._conninfo, options=options.strip()))],
            places=[f"{url.rstrip('/')}/" for url in self._urls],
        )

    def prepare(self) -> None:
        """Make the lake's catalog where there is none, and see that commits bring their receipts. Any number of times.

        Raises:
            LakeUnavailable, StorageMoved: the database does not answer; the files are elsewhere.
        """
        with self._prepared:
            if self._is_prepared:
                return
            with translated(), psycopg.connect(self._conninfo, autocommit=True) as postgres:
                postgres.execute("SELECT pg_advisory_lock(%s)", [PREPARATION])
                if _lacks_triggers(postgres):
                    self._make()
                    _put_triggers(postgres)
                self._check_storage(postgres)
                for name, url in self._settings.storage_targets.items():
                    self._add_target(postgres, name, url)
            self._is_prepared = True

    def close(self) -> None:
        """Close every idle instance."""
        for pool in (self._readers, self._writers):
            while (connection := pool.take_idle()) is not None:
                _close(connection)

    @contextmanager
    def _lent(self, pool: "_Pool", access: Access) -> Iterator["_Loan"]:
        self.prepare()
        if not pool.free.acquire(timeout=self._settings.query_timeout):
            raise LakeBusy("every connection to the lake is in use; try again", retry_after=5)
        try:
            loan = _Loan(self._taken(pool) or self._open(access))
            try:
                with translated():
                    yield loan
            except BaseException:
                _close(loan.connection)
                raise
            pool.idle.put(loan.connection)
        finally:
            pool.free.release()

    def _taken(self, pool: "_Pool") -> Connection | None:
        connection = pool.take_idle()
        if connection is not None and "s3" in self._schemes:
            # The keys that it has may have ended.
            connection.execute(self._s3_secret())
        return connection

    def _open(self, access: Access) -> Connection:
        connection = duckdb.connect(":memory:", config=self._config(access))
        try:
            with translated():
                self._load(connection)
                connection.execute(self._attach(access, self._conninfo))
        except BaseException:
            connection.close()
            raise
        return connection

    def _config(self, access: Access) -> dict[str, str | bool | int | float | list[str]]:
        # Of its own: instances that spill into one folder overwrite each other's files.
        temp = self._settings.state / "timestore" / "tmp" / new_id()
        # DuckDB makes the folder, if it needs one, and none above it.
        temp.parent.mkdir(parents=True, exist_ok=True)
        return {
            "memory_limit": f"{access.memory_bytes}B",
            "temp_directory": str(temp),
            "max_temp_directory_size": f"{self._settings.query_temp_bytes}B",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }

    def _load(self, connection: Connection) -> None:
        for scheme in self._schemes & THROUGH_FSSPEC:
            connection.register_filesystem(fsspec.filesystem(scheme))
        for statement in self._loading():
            connection.execute(statement)

    def _loading(self) -> list[str]:
        statements = [f"LOAD {literal(_extension_file(extension))}" for extension in EXTENSIONS]
        # Who finds that another commit was first looks again at once: the lock is held meanwhile.
        statements += ["SET ducklake_max_retry_count = 3", "SET ducklake_retry_wait_ms = 1"]
        statements += ["SET TimeZone = 'UTC'", inlining(INLINE_ROWS)]
        return statements + ([self._s3_secret()] if "s3" in self._schemes else [])

    @property
    def _urls(self) -> list[str]:
        return [self.data_path, *self._settings.storage_targets.values()]

    @property
    def _schemes(self) -> set[str]:
        return {urlsplit(url).scheme for url in self._urls}

    def _s3_secret(self) -> str:
        written = ", ".join(f"{name} {literal(value)}" for name, value in s3.secret(self._settings).items())
        return f"CREATE OR REPLACE SECRET storage (TYPE s3, {written})"

    @cached_property
    def _conninfo(self) -> str:
        url = self._settings.sqlalchemy_url.replace("+psycopg", "", 1)
        return make_conninfo("connect_timeout=5 application_name=apphub-lake", **conninfo_to_dict(url))

    def _attach(self, access: Access, conninfo: str) -> str:
        # OVERRIDE_DATA_PATH: where the files are, the settings say; `prepare` has compared.
        options = [
            f"DATA_PATH {literal(self.data_path)}",
            "META_SCHEMA 'timestore'",
            "OVERRIDE_DATA_PATH true",
        ]
        options += ["READ_ONLY"] if access.read_only else []
        return f"ATTACH {literal('ducklake:postgres:' + conninfo)} AS lake ({', '.join(options)})"

    def _make(self) -> None:
        if "://" not in self.data_path:
            Path(self.data_path).mkdir(parents=True, exist_ok=True)
        with self.opened(Access(read_only=False, memory_bytes=self._settings.write_memory_bytes)):
            pass

    def _check_storage(self, postgres: psycopg.Connection[tuple[str]]) -> None:
        """A lake whose folder was moved is used where it is now; one whose files stayed behind is not."""
        row = postgres.execute("SELECT value FROM timestore.ducklake_metadata WHERE key = 'data_path'").fetchone()
        recorded = row[0].rstrip("/") if row else self.data_path
        if recorded == self.data_path:
            return
        known = postgres.execute("SELECT count(*)::text FROM timestore.ducklake_data_file").fetchone()
        if known != ("0",) and not self._has_files(self.data_path):
            raise StorageMoved(
                f"the lake's files were under {recorded}, and there are none under {self.data_path}; "
                "copy them there, or set APPHUB_STORAGE_URL back"
            )
        postgres.execute(
            "UPDATE timestore.ducklake_metadata SET value = %s WHERE key = 'data_path'", [self.data_path + "/"]
        )

    def _has_files(self, url: str) -> bool:
        with duckdb.connect(":memory:") as connection:
            self._load(connection)
            found = connection.execute("SELECT 1 FROM glob(?) LIMIT 1", [f"{url}/**/*.parquet"]).fetchone()
        return found is not None

    def _add_target(self, postgres: psycopg.Connection[tuple[str]], name: str, url: str) -> None:
        """A target is a schema of the lake whose path is absolute, which DuckLake keeps but has no statement for.

        Source: https://ducklake.select/docs/stable/specification/tables/ducklake_schema
        """
        area, path = f"target_{name}", f"{url.rstrip('/')}/"
        with self.opened(Access(read_only=False, memory_bytes=self._settings.write_memory_bytes)) as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS lake.{quote(area)}")
        found = postgres.execute(
            "SELECT path FROM timestore.ducklake_schema WHERE schema_name = %s AND end_snapshot IS NULL", [area]
        ).fetchone()
        if found and found[0].endswith("/") and "/" in found[0][:-1] and found[0] != path:
            raise StorageMoved(
                f"the files of storage target {name} are under {found[0]}, APPHUB_STORAGE_TARGETS says {path}"
            )
        postgres.execute(
            "UPDATE timestore.ducklake_schema SET path = %s, path_is_relative = false"
            " WHERE schema_name = %s AND end_snapshot IS NULL", [path, area],
        )  # fmt: skip
        postgres.execute(
            "INSERT INTO timestore.storage_targets (id, name, kind, area, url) VALUES (%s, %s, %s, %s, %s)"
            " ON CONFLICT (name) DO UPDATE SET url = excluded.url", [name, name, kind_of(url), area, url],
        )  # fmt: skip


@dataclass
class _Loan:
    connection: Connection


class _Pool:
    """Instances that nobody uses now, and how many more may be lent."""

    def __init__(self, size: int) -> None:
        self.idle: LifoQueue[Connection] = LifoQueue()
        self.free = threading.BoundedSemaphore(size)

    def take_idle(self) -> Connection | None:
        with suppress(Empty):
            return self.idle.get_nowait()
        return None


@contextmanager
def told_by_arrow() -> Iterator[None]:
    """Raise DuckDB's own errors where Arrow, which hands out the rows of a stream, knows only their text."""
    try:
        yield
    except OSError as error:
        kind, colon, _ = str(error).partition(" Error: ")
        if error.errno is not None or not colon:
            raise
        raise ERRORS.get(kind, duckdb.Error)(str(error)) from error


@contextmanager
def translated() -> Iterator[None]:
    """Turn DuckDB's and Postgres' errors into ours; those that a caller has to know better pass through.

    Raises:
        LakeConflict: another commit was quicker.
        LakeUnavailable: catalog or storage is away, or full.
    """
    try:
        yield
    except (duckdb.IOException, duckdb.HTTPException, psycopg.OperationalError) as error:
        raise LakeUnavailable(f"the lake's catalog or storage fails: {clean(error)}", retry_after=5) from _told(error)
    except (duckdb.OutOfMemoryException, duckdb.InterruptException):
        raise
    except duckdb.Error as error:
        if translation := _translation(error):
            raise translation from _told(error)
        raise


def _translation(error: duckdb.Error) -> AppHubError | None:
    """DuckDB wraps what its extensions meet in errors of any kind, so the text decides; not that of a stack trace."""
    message = str(error).partition("Stack Trace:")[0]
    if CONFLICT.search(message):
        return LakeConflict("the dataset was changed at the same time", retry_after=1)
    if any(sign in message for sign in SIGNS_OF_ABSENCE):
        return LakeUnavailable(f"the lake's catalog or storage fails: {clean(error)}", retry_after=5)
    return None


def _told(error: Exception) -> Exception:
    """The cause of an error, for logs and for Dagster, which shows all causes to everybody."""
    return type(error)(clean(error))


def clean(error: Exception) -> str:
    """The first lines of an error, without the password that DuckDB writes into some."""
    message = str(error).partition("Stack Trace:")[0]
    return PASSWORD.sub("password=…", " ".join(message.split()))[:500]


def inlining(rows: int) -> str:
    """The statement by which an instance from now on puts so few rows into Postgres."""
    return f"SET ducklake_default_data_inlining_row_limit = {rows}"


def literal(value: str) -> str:
    """A string as an SQL literal, for statements that take no parameters."""
    return "'" + value.replace("'", "''") + "'"


def kind_of(url: str) -> str:
    """The contract's kind of a storage target."""
    return KINDS.get(urlsplit(url).scheme, "local")


def _close(connection: Connection) -> None:
    try:
        connection.rollback()
    except duckdb.FatalException:
        # DuckDB ends the whole process when an instance is closed that met an internal error within a transaction.
        _keep_for_ever(connection)
        return
    except duckdb.Error:
        pass  # there is no transaction to roll back
    temp = None
    with suppress(duckdb.Error):
        temp = connection.execute("SELECT current_setting('temp_directory')").fetchone()
        connection.execute("USE memory")
        connection.execute("DETACH lake")
    connection.close()
    if temp is not None:
        shutil.rmtree(temp[0], ignore_errors=True)


def _keep_for_ever(connection: Connection) -> None:
    """Let nobody ever take it away, not even Python at its end."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def _lacks_triggers(postgres: psycopg.Connection[tuple[str]]) -> bool:
    """Whether there is no lake yet, or one whose making was cut short, or that is of before one of its triggers."""
    found = postgres.execute(
        "SELECT count(*)::text FROM pg_trigger WHERE (tgname, tgrelid) IN"
        " (('write_receipt', to_regclass('timestore.ducklake_snapshot_changes')),"
        " ('leave_gap', to_regclass('timestore.ducklake_table_stats')))"
    ).fetchone()
    return found != ("2",)


def _put_triggers(postgres: psycopg.Connection[tuple[str]]) -> None:
    postgres.execute(
        "CREATE OR REPLACE TRIGGER write_receipt BEFORE INSERT ON timestore.ducklake_snapshot_changes"
        " FOR EACH ROW EXECUTE FUNCTION timestore.write_receipt()"
    )
    postgres.execute(
        "CREATE OR REPLACE TRIGGER leave_gap BEFORE INSERT OR UPDATE OF next_row_id ON timestore.ducklake_table_stats"
        " FOR EACH ROW EXECUTE FUNCTION timestore.leave_gap()"
    )


@cache
def _extension_file(name: str) -> str:
    """The extension in its installed wheel; nothing is copied to the home folder, and never downloaded."""
    package = files(f"duckdb_extension_{name}")
    return str(package / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension")

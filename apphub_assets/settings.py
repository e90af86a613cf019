"""Every setting of AppHub, in one class that is read once at the edge and passed in.

Values come from `APPHUB_*` environment variables (or `.env`); a variable with `_FILE` appended names a file
that holds the value, for secrets. Sizes are bytes and times are seconds unless the name says otherwise.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024
# What a run needs beside DuckDB's own memory: Python, and 42 threads at once while DuckDB checks a signature. One that
# can't have its threads is aborted without a word of why.
RUN_OVERHEAD = 512 * MIB

# Read by the command line, by Dagster's configuration, by Compose and by the tests.
OTHER_VARIABLES = {
    "APPHUB_URL",
    "APPHUB_TOKEN",
    "APPHUB_DAGSTER_DATABASE_URL",
    "APPHUB_DAGSTER_STATE",
    "APPHUB_RUN_SOCKET",
    "APPHUB_CODE_SOCKET",
    "APPHUB_STACK",
    "APPHUB_IMAGE",
    "APPHUB_REQUIRE_ENGINE",
}


class Settings(BaseSettings):
    """The whole configuration; frozen after it was read."""

    model_config = SettingsConfigDict(
        env_prefix="APPHUB_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    # Where things are
    home: Path = Field(Path(".apphub"), description="State of the embedded stack: database, storage, logs, sockets.")
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(4000, description="Port the API listens on.")
    dagster_host: str = Field("127.0.0.1", description="Host of the Dagster webserver, as the API reaches it.")
    dagster_port: int = Field(4001, description="Port of the Dagster webserver, as the API reaches it.")
    dagster_secret: SecretStr | None = Field(
        None, description="What the API shows the Dagster webserver; empty: `apphub up` makes one per start."
    )
    database_url: SecretStr | None = Field(None, description="Postgres URL; empty: an embedded Postgres is started.")
    storage_url: str | None = Field(None, description="Folder or s3:// URL for files; default <home>/storage.")
    public_url: str | None = Field(None, description="Address people use, when a proxy stands in front.")

    # S3, for a storage_url of s3://
    s3_endpoint_url: str | None = Field(None, description="S3 server other than Amazon's; else AWS_ENDPOINT_URL.")
    s3_region: str = Field("us-east-1", description="S3 region; else AWS_REGION.")
    s3_access_key_id: SecretStr | None = Field(
        None, description="S3 access key; else AWS_ACCESS_KEY_ID, else what AWS's profile or role gives."
    )
    s3_secret_access_key: SecretStr | None = Field(None, description="S3 secret key; else AWS_SECRET_ACCESS_KEY.")
    s3_session_token: SecretStr | None = Field(None, description="Of temporary keys; else AWS_SESSION_TOKEN.")

    # Timestore
    storage_targets: dict[str, str] = Field(
        {}, description='JSON object of further places for datasets, e.g. {"cold": "s3://archive/apphub"}.'
    )
    ingest_max_json_bytes: int = Field(16 * MIB, description="Largest JSON, NDJSON or CSV body of an ingest.")
    ingest_max_bytes: int = Field(1024 * MIB, description="Largest Parquet or Arrow body of an ingest, once unpacked.")
    ingest_max_rows: int = Field(20_000_000, description="Most rows of one ingest.")
    ingest_queue_bytes: int = Field(64 * MIB, description="Batches that wait to be written; further ones get a 429.")
    ingest_timeout: float = Field(30.0, description="A batch that can't be written by then is refused.")
    write_memory_bytes: int = Field(256 * MIB, description="DuckDB's memory for writing, per process.")
    upkeep_memory_bytes: int = Field(1024 * MIB, description="DuckDB's memory for merging files, per run.")
    query_memory_bytes: int = Field(160 * MIB, description="DuckDB's memory for one query.")
    query_concurrency: int = Field(3, description="Queries at once per API process; further ones wait.")
    query_timeout: float = Field(60.0, description="Deadline of one query.")
    query_temp_bytes: int = Field(4096 * MIB, description="Disk one query may use for what does not fit its memory.")
    sql_timeout: float = Field(30.0, description="Deadline of one statement of /sql/read.")
    sql_memory_bytes: int = Field(256 * MIB, description="DuckDB's memory for one such statement.")
    sql_max_rows: int = Field(10_000, description="Most rows of its answer; the rest is cut off.")
    sql_concurrency: int = Field(
        4, description="Such statements at once per API process; a few wait, others get a 429."
    )
    retention_max_age_hours: float | None = Field(
        None, gt=0, description="Age at which rows of datasets without a policy go; empty: they stay."
    )
    retention_max_total_bytes: int | None = Field(
        None, gt=0, description="Size beyond which the oldest rows of datasets without a policy go; empty: they stay."
    )
    delete_grace_minutes: float = Field(5.0, ge=0, description="How long deleted datasets and rows can be had back.")
    flush_rows: int = Field(20_000, description="Rows of a dataset that may wait in Postgres to be written to files.")
    flush_after: float = Field(300.0, description="How long they may wait.")
    compact_target_bytes: int = Field(128 * MIB, description="Size up to which files of a partition are merged.")
    compact_seconds: float = Field(120.0, description="Time after which a run of the compaction begins no more.")
    compact_bytes: int = Field(2048 * MIB, description="Bytes of files after which it begins no more.")
    snapshot_retention_hours: float = Field(
        168.0, ge=1, description="How far back datasets can be queried as they were."
    )
    snapshots_max: int = Field(
        200_000, ge=1, description="Snapshots beyond which the oldest go earlier, but none within an hour."
    )
    orphan_grace_hours: float = Field(
        24.0, ge=1, description="Age at which files that nothing refers to go to the quarantine."
    )
    quarantine_hours: float = Field(168.0, ge=0, description="How long files stay in the quarantine.")
    batch_retention_days: float = Field(
        14.0, description="How long the idempotency keys of batches whose rows went by age are known."
    )
    access_retention_days: float = Field(90.0, description="Age at which entries leave the datasets' audit logs.")

    # Identity
    operator_tokens: SecretStr | None = Field(None, description="JSON array of {token, subject?, scopes?, kind?}.")
    operator_tokens_path: Path | None = Field(None, description="File with the same JSON array.")

    # Webhooks: one shared secret per provider; a provider without a secret is closed.
    webhook_secret_github: SecretStr | None = Field(None, description="Secret of GitHub webhooks.")
    webhook_secret_gitlab: SecretStr | None = Field(None, description="Token of GitLab webhooks.")
    webhook_secret_generic: SecretStr | None = Field(None, description="HMAC secret of generic webhooks.")

    # Requests
    max_body_bytes: int = Field(4 * MIB, description="Largest request body; previews have none of their own.")

    # Git: repositories are hostile until read
    git_private_hosts: str = Field(
        "", description="Comma list of host names, addresses or CIDRs that may be private, e.g. `git.corp,10.0.0.0/8`."
    )
    git_local_roots: str = Field("", description="Comma list of folders below which file:// repositories are allowed.")
    git_timeout: float = Field(120.0, description="Deadline of one clone.")
    git_max_bytes: int = Field(512 * MIB, description="Largest checkout, .git included.")
    git_max_files: int = Field(50_000, description="Most files in a checkout.")
    ingest_max_attempts: int = Field(3, description="Attempts of one ingestion when its worker dies or Git is away.")
    refresh_interval: float = Field(300.0, description="How often a remote is asked whether its HEAD moved.")

    # Builds
    engine_url: str | None = Field(None, description="Container engine; default: DOCKER_HOST or the local socket.")
    build_timeout: float = Field(1200.0, description="Deadline of one build.")
    build_memory_bytes: int = Field(2048 * MIB, description="Memory of one build step.")
    build_cpus: float = Field(1.0, description="CPUs of one build step.")
    build_disk_bytes: int = Field(4096 * MIB, description="Most a build may add to the disk.")
    build_log_bytes: int = Field(8 * MIB, description="Most of a build log that is kept; the middle is cut.")
    build_keep_count: int = Field(3, description="Images kept per repository.")
    build_keep_days: float = Field(14.0, description="Age after which unused images beyond the newest go.")

    # Launches
    relay_image: str = Field("busybox:1.36", description="Image with a busybox that relays traffic into a sandbox.")
    relay_network: str | None = Field(None, description="Docker network the API shares with relays; empty: loopback.")
    launch_ttl: float = Field(3600.0, description="Life of a launch.")
    launch_idle_timeout: float = Field(900.0, description="A launch without a request for this long expires.")
    launch_start_timeout: float = Field(60.0, description="An app that does not answer by then has failed.")
    launch_max: int = Field(50, description="Most launches at once.")
    pool_memory_bytes: int = Field(256 * MIB, description="Memory the warm pool may hold; 0 turns it off.")

    # Runs
    max_concurrent_runs: int = Field(8, description="Dagster runs at once; further ones wait in Dagster's queue.")
    run_memory_bytes: int = Field(
        2048 * MIB,
        description="Memory one run worker may allocate: 512 MiB more than `APPHUB_UPKEEP_MEMORY_BYTES` at least.",
    )

    # Events
    event_retention_days: float = Field(14.0, description="Age at which events leave the outbox.")
    run_retention_days: float = Field(30.0, description="Age at which finished Dagster runs and their logs go.")

    log_level: str = Field("info", description="debug, info, warning or error.")
    log_format: str = Field("auto", description="json, console, or auto: console on a terminal.")

    @model_validator(mode="after")
    def _runs_have_room(self) -> Self:
        needed = self.upkeep_memory_bytes + RUN_OVERHEAD
        if self.run_memory_bytes < needed:
            raise ValueError(
                f"APPHUB_RUN_MEMORY_BYTES is {self.run_memory_bytes} and must be at least {needed}:"
                f" APPHUB_UPKEEP_MEMORY_BYTES and {RUN_OVERHEAD} for what runs need beside it;"
                " raise it, or lower the other"
            )
        return self

    @property
    def state(self) -> Path:
        """The absolute state folder."""
        return self.home.absolute()

    @property
    def storage(self) -> str:
        """Folder or URL under which files go, without a slash at its end."""
        return (self.storage_url or str(self.state / "storage")).rstrip("/")

    @property
    def has_tokens(self) -> bool:
        """Whether callers are told apart by tokens; without any, whoever is at this machine is the operator."""
        return bool(self.operator_tokens or self.operator_tokens_path)

    @property
    def stack_id(self) -> str:
        """Tells this stack's containers and networks from another's on the same engine."""
        return hashlib.sha256(str(self.state).encode()).hexdigest()[:10]

    @property
    def sqlalchemy_url(self) -> str:
        """The database URL with its driver named.

        Raises:
            SettingMissing: no database is configured and none is embedded.
        """
        if self.database_url is None:
            raise SettingMissing("APPHUB_DATABASE_URL is not set; start the stack with `apphub up`")
        return with_driver(self.database_url.get_secret_value(), "psycopg")


class SettingError(RuntimeError):
    """The settings are such that this process can't start; the message says which, and what would do."""


class SettingMissing(SettingError):
    """A setting that this process can't do without is empty."""


class SettingInvalid(SettingError):
    """A setting has a value that it can't have."""


def with_driver(url: str, driver: str) -> str:
    """Return a `postgresql+driver://` URL: SQLAlchemy 2.1 reads a bare one as psycopg 3, which breaks Dagster."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.split("+")[0] not in {"postgres", "postgresql"}:
        raise SettingMissing(f"the database URL must start with postgresql://, got {scheme!r}")
    return f"postgresql+{driver}://{rest}"


# What others call the same thing; read when our own is not set.
CUSTOMARY = {
    "database_url": "DATABASE_URL",
    "s3_endpoint_url": "AWS_ENDPOINT_URL",
    "s3_region": "AWS_REGION",
    "s3_access_key_id": "AWS_ACCESS_KEY_ID",
    "s3_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "s3_session_token": "AWS_SESSION_TOKEN",
}


def load_settings() -> Settings:
    """Read the environment: `APPHUB_*`, `APPHUB_*_FILE`, and as a last resort what is customary elsewhere.

    Raises:
        SettingMissing: a file that a variable names is empty.
        SettingInvalid: a value is none that its setting can have.
    """
    from_files = {
        name: _content(variable)
        for name in Settings.model_fields
        if os.environ.get(variable := f"APPHUB_{name.upper()}_FILE")
    }
    values: dict[str, str] = dict(from_files)
    for name, variable in CUSTOMARY.items():
        if f"APPHUB_{name.upper()}" not in os.environ and name not in values and (value := os.environ.get(variable)):
            values[name] = value
    try:
        return Settings(**values)  # type: ignore[arg-type]  # pydantic parses the strings
    except ValidationError as error:
        raise SettingInvalid("; ".join(_faults(error))) from None


def _faults(error: ValidationError) -> Iterator[str]:
    """What is wrong with each setting. Values are not repeated: one may be a secret."""
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        variable = "".join(f"APPHUB_{str(name).upper()}: " for name in fault["loc"][:1])
        yield variable + fault["msg"].removeprefix("Value error, ")


def _content(variable: str) -> str:
    value = Path(os.environ[variable]).read_text().strip()
    if not value:
        # Neither a secret that everybody knows, nor the same as none: without tokens, whoever is local is the operator.
        raise SettingMissing(f"{variable} names an empty file; write the value into it, or unset the variable")
    return value


def unknown_variables() -> list[str]:
    """`APPHUB_*` variables that no setting reads: most are typing errors, so they are warned about."""
    known = {f"APPHUB_{name.upper()}{suffix}" for name in Settings.model_fields for suffix in ("", "_FILE")}
    return sorted(name for name in os.environ if name.startswith("APPHUB_") and name not in known | OTHER_VARIABLES)

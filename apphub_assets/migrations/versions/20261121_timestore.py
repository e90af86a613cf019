"""The timestore's tables, and the function by which a commit of the lake brings its receipt."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261121_timestore"
down_revision = "20261121_merges"

# Fires on DuckLake's own table and so inside its transaction: either the rows of the lake and these become visible,
# or none. `lake.py` puts the trigger on the table, which DuckLake makes when it is attached for the first time. What
# was written elsewhere is not kept in the message too: DuckLake reads all messages at once when it expires snapshots.
WRITE_RECEIPT = """
CREATE OR REPLACE FUNCTION timestore.write_receipt() RETURNS trigger LANGUAGE plpgsql AS $body$
DECLARE
    receipt jsonb;
    batch timestore.batches;
    manifest timestore.manifests;
BEGIN
    -- Others may commit to the lake too, and with whatever extra info they like.
    IF NEW.author IS DISTINCT FROM 'apphub' OR NEW.commit_extra_info IS NULL THEN
        RETURN NEW;
    END IF;
    receipt := NEW.commit_extra_info::jsonb;
    NEW.commit_extra_info := NULL;

    INSERT INTO timestore.datasets (id, slug, name, description, status, table_name, storage_target_id,
            timestamp_column, partition_keys, granularity, schema_version, retention, metadata, created_by)
        SELECT id, slug, name, description, status, table_name, storage_target_id,
            timestamp_column, partition_keys, granularity, schema_version, retention, metadata, created_by
        FROM jsonb_populate_recordset(NULL::timestore.datasets, receipt->'datasets');

    INSERT INTO timestore.schema_versions (id, dataset_id, version, fields, checksum, change, created_by)
        SELECT id, dataset_id, version, fields, checksum, change, created_by
        FROM jsonb_populate_recordset(NULL::timestore.schema_versions, receipt->'schemas');
    UPDATE timestore.datasets d SET schema_version = s.version,
            updated_at = greatest(clock_timestamp(), d.updated_at + interval '1 microsecond')
        FROM jsonb_populate_recordset(NULL::timestore.schema_versions, receipt->'schemas') s WHERE d.id = s.dataset_id;
    IF EXISTS (
        SELECT FROM jsonb_to_recordset(receipt->'schemas') AS s(dataset_id text, storage_target_id text)
        JOIN timestore.datasets d ON d.id = s.dataset_id WHERE d.storage_target_id <> s.storage_target_id
    ) THEN
        RAISE EXCEPTION 'transaction conflict: the dataset was given another storage target meanwhile';
    END IF;
    UPDATE timestore.datasets d SET storage_target_id = m.storage_target_id,
            updated_at = greatest(clock_timestamp(), d.updated_at + interval '1 microsecond')
        FROM jsonb_to_recordset(receipt->'moves') AS m(dataset_id text, storage_target_id text)
        WHERE d.id = m.dataset_id;
    IF EXISTS (
        SELECT FROM jsonb_to_recordset(receipt->'moves') AS m(dataset_id text)
        JOIN timestore.batches b ON b.dataset_id = m.dataset_id AND b.retired_at IS NULL
    ) THEN
        RAISE EXCEPTION 'transaction conflict: the dataset was given rows meanwhile';
    END IF;

    -- Nobody can restore it from now on, whatever the clock of the one who tries says.
    UPDATE timestore.datasets d SET purge_after = 'epoch'
        FROM jsonb_to_recordset(receipt->'purged') AS p(dataset_id text)
        WHERE d.id = p.dataset_id AND d.status = 'deleted';
    IF EXISTS (
        SELECT FROM jsonb_to_recordset(receipt->'purged') AS p(dataset_id text)
        JOIN timestore.datasets d ON d.id = p.dataset_id WHERE d.status <> 'deleted'
    ) THEN
        RAISE EXCEPTION 'transaction conflict: the dataset was restored meanwhile';
    END IF;

    -- What was taken out goes first: a commit may replace a batch.
    WITH gone AS (
        UPDATE timestore.batches b SET retired_at = clock_timestamp()
        FROM jsonb_to_recordset(receipt->'retired')
            AS r(dataset_id text, start_at timestamptz, end_at timestamptz, partition_key jsonb)
        WHERE b.dataset_id = r.dataset_id AND b.retired_at IS NULL AND b.end_at < r.end_at
            AND (r.start_at IS NULL OR b.start_at >= r.start_at)
            AND (r.partition_key IS NULL OR b.partition_key = r.partition_key)
        RETURNING b.manifest_id, b.row_count, b.byte_count
    ), lost AS (
        SELECT manifest_id, count(*) AS batches, sum(row_count) AS row_count, sum(byte_count) AS byte_count
        FROM gone GROUP BY manifest_id
    )
    UPDATE timestore.manifests m SET version = m.version + 1, partition_count = m.partition_count - lost.batches,
            total_rows = m.total_rows - lost.row_count, total_bytes = m.total_bytes - lost.byte_count,
            snapshot_id = NEW.snapshot_id, updated_at = clock_timestamp()
        FROM lost WHERE m.id = lost.manifest_id;

    FOR batch IN SELECT * FROM jsonb_populate_recordset(NULL::timestore.batches, receipt->'batches') LOOP
        INSERT INTO timestore.manifests AS m (id, dataset_id, shard, version, schema_version, partition_count,
                total_rows, total_bytes, snapshot_id)
            VALUES (batch.manifest_id, batch.dataset_id, batch.shard, 1, batch.schema_version, 1,
                batch.row_count, batch.byte_count, NEW.snapshot_id)
            ON CONFLICT (dataset_id, shard) DO UPDATE SET version = m.version + 1,
                schema_version = excluded.schema_version, partition_count = m.partition_count + 1,
                total_rows = m.total_rows + excluded.total_rows, total_bytes = m.total_bytes + excluded.total_bytes,
                snapshot_id = excluded.snapshot_id, updated_at = clock_timestamp()
            RETURNING * INTO manifest;
        batch.snapshot_id := NEW.snapshot_id;
        batch.manifest_version := manifest.version;
        batch.manifest_partitions := manifest.partition_count;
        batch.manifest_rows := manifest.total_rows;
        batch.manifest_bytes := manifest.total_bytes;
        INSERT INTO timestore.batches SELECT (batch).*;
    END LOOP;

    INSERT INTO events.outbox (id, type, source, payload, correlation_id)
        SELECT id, type, source, payload, correlation_id
        FROM jsonb_populate_recordset(NULL::events.outbox, receipt->'events');
    IF jsonb_array_length(coalesce(receipt->'events', '[]')) > 0 THEN
        PERFORM pg_notify('apphub_events', '');
    END IF;

    INSERT INTO timestore.access_audit (dataset_id, dataset_slug, actor_id, actor_scopes, action, success, metadata)
        SELECT dataset_id, dataset_slug, actor_id, actor_scopes, action, success, metadata
        FROM jsonb_populate_recordset(NULL::timestore.access_audit, receipt->'accesses');
    RETURN NEW;
END
$body$
"""


def upgrade() -> None:
    op.create_table(
        "access_audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("dataset_id", sa.String(), nullable=True),
        sa.Column("dataset_slug", sa.String(), nullable=False),
        sa.Column("actor_id", sa.String(), nullable=True),
        sa.Column("actor_scopes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("success", sa.Boolean(), nullable=False),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_audit")),
        schema="timestore",
    )
    op.create_index(
        "ix_access_audit_dataset_id_id", "access_audit", ["dataset_id", "id"], unique=False, schema="timestore"
    )
    op.create_table(
        "saved_queries",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("statement", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=True),
        sa.Column("stats", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_by", sa.String(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_saved_queries")),
        schema="timestore",
    )
    op.create_table(
        "storage_targets",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=True),
        sa.Column("area", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_storage_targets")),
        sa.UniqueConstraint("area", name=op.f("uq_storage_targets_area")),
        sa.UniqueConstraint("name", name=op.f("uq_storage_targets_name")),
        schema="timestore",
    )
    op.create_table(
        "datasets",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("slug", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("table_name", sa.String(), nullable=False),
        sa.Column("storage_target_id", sa.String(), nullable=False),
        sa.Column("timestamp_column", sa.String(), nullable=False),
        sa.Column("partition_keys", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("granularity", sa.String(), nullable=False),
        sa.Column("schema_version", sa.Integer(), nullable=False),
        sa.Column("retention", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_by", sa.String(), nullable=True),
        sa.Column("purge_after", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status_before", sa.String(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("granularity IN ('hour', 'day', 'month')", name=op.f("ck_datasets_granularity")),
        sa.CheckConstraint("status IN ('active', 'inactive', 'deleted')", name=op.f("ck_datasets_status")),
        sa.ForeignKeyConstraint(
            ["storage_target_id"],
            ["timestore.storage_targets.id"],
            name=op.f("fk_datasets_storage_target_id_storage_targets"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        sa.UniqueConstraint("table_name", name=op.f("uq_datasets_table_name")),
        schema="timestore",
    )
    op.create_index("ix_datasets_updated_at", "datasets", ["updated_at", "id"], unique=False, schema="timestore")
    op.create_index(
        "uq_datasets_slug",
        "datasets",
        ["slug"],
        unique=True,
        schema="timestore",
        postgresql_where=sa.text("status <> 'deleted'"),
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("dataset_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("content", sa.String(), nullable=False),
        sa.Column("schema_version", sa.Integer(), nullable=False),
        sa.Column("shard", sa.Date(), nullable=False),
        sa.Column("partition_key", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("attributes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("start_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("end_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("row_count", sa.BigInteger(), nullable=False),
        sa.Column("byte_count", sa.BigInteger(), nullable=False),
        sa.Column("statistics", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("actor", sa.String(), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("snapshot_id", sa.BigInteger(), nullable=False),
        sa.Column("manifest_id", sa.String(), nullable=False),
        sa.Column("manifest_version", sa.Integer(), nullable=False),
        sa.Column("manifest_partitions", sa.Integer(), nullable=False),
        sa.Column("manifest_rows", sa.BigInteger(), nullable=False),
        sa.Column("manifest_bytes", sa.BigInteger(), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["timestore.datasets.id"], name=op.f("fk_batches_dataset_id_datasets"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        sa.UniqueConstraint("dataset_id", "key", name=op.f("uq_batches_dataset_id_key")),
        schema="timestore",
    )
    op.create_index(
        "ix_batches_dataset_id_shard", "batches", ["dataset_id", "shard", "id"], unique=False, schema="timestore"
    )
    op.create_index("ix_batches_snapshot_id", "batches", ["snapshot_id"], unique=False, schema="timestore")
    op.create_table(
        "manifests",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("dataset_id", sa.String(), nullable=False),
        sa.Column("shard", sa.Date(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("schema_version", sa.Integer(), nullable=False),
        sa.Column("partition_count", sa.Integer(), nullable=False),
        sa.Column("total_rows", sa.BigInteger(), nullable=False),
        sa.Column("total_bytes", sa.BigInteger(), nullable=False),
        sa.Column("snapshot_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["timestore.datasets.id"], name=op.f("fk_manifests_dataset_id_datasets"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_manifests")),
        sa.UniqueConstraint("dataset_id", "shard", name=op.f("uq_manifests_dataset_id_shard")),
        schema="timestore",
    )
    op.create_table(
        "schema_versions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("dataset_id", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("fields", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("checksum", sa.String(), nullable=False),
        sa.Column("change", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_by", sa.String(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["timestore.datasets.id"],
            name=op.f("fk_schema_versions_dataset_id_datasets"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schema_versions")),
        sa.UniqueConstraint("dataset_id", "version", name=op.f("uq_schema_versions_dataset_id_version")),
        schema="timestore",
    )
    op.execute(WRITE_RECEIPT)
    op.execute(
        "INSERT INTO timestore.storage_targets (id, name, kind, description, area, url) VALUES"
        " ('default', 'default', 'lake', 'What APPHUB_STORAGE_URL names', 'main', NULL)"
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION timestore.write_receipt CASCADE")
    op.drop_table("schema_versions", schema="timestore")
    op.drop_table("manifests", schema="timestore")
    op.drop_index("ix_batches_snapshot_id", table_name="batches", schema="timestore")
    op.drop_index("ix_batches_dataset_id_shard", table_name="batches", schema="timestore")
    op.drop_table("batches", schema="timestore")
    op.drop_index(
        "uq_datasets_slug", table_name="datasets", schema="timestore", postgresql_where=sa.text("status <> 'deleted'")
    )
    op.drop_index("ix_datasets_updated_at", table_name="datasets", schema="timestore")
    op.drop_table("datasets", schema="timestore")
    op.drop_table("storage_targets", schema="timestore")
    op.drop_table("saved_queries", schema="timestore")
    op.drop_index("ix_access_audit_dataset_id_id", table_name="access_audit", schema="timestore")
    op.drop_table("access_audit", schema="timestore")

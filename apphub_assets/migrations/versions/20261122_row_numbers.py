"""A gap between the numbers of rows of one commit of the lake and the next; receipts leave DuckLake's messages."""

from importlib import import_module

from alembic import op

revision = "20261122_row_numbers"
down_revision = "20261121_timestore"

# DuckLake (1.5.5) does not write the numbers of rows into a file that it merges of files whose numbers follow each
# other without a gap, and counts them by position from then on; yet it has sorted the rows. `lake.py` puts the trigger
# on DuckLake's own table.
LEAVE_GAP = """
CREATE FUNCTION timestore.leave_gap() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    NEW.next_row_id := NEW.next_row_id + 1;
    RETURN NEW;
END
$body$
"""

FORGET_RECEIPTS = """
DO $$ BEGIN
    IF to_regclass('timestore.ducklake_snapshot_changes') IS NOT NULL THEN
        UPDATE timestore.ducklake_snapshot_changes SET commit_extra_info = NULL WHERE author = 'apphub';
    END IF;
END $$
"""


def upgrade() -> None:
    op.execute(LEAVE_GAP)
    # Who has the revision of before has the function that it then was. `lake.py` lets it fire before the row is
    # written now, and there it would leave the row out.
    before = import_module(f"apphub_assets.migrations.versions.{down_revision}")
    op.execute(before.WRITE_RECEIPT)
    op.execute(FORGET_RECEIPTS)


def downgrade() -> None:
    op.execute("DROP FUNCTION timestore.leave_gap CASCADE")

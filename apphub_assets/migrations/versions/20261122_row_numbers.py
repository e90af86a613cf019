"""A gap between the numbers of rows of one commit of the lake and the next."""

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


def upgrade() -> None:
    op.execute(LEAVE_GAP)


def downgrade() -> None:
    op.execute("DROP FUNCTION timestore.leave_gap CASCADE")

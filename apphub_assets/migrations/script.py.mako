"""${message}

A migration takes its locks for moments only: add columns without a volatile default, make indexes of big tables
CONCURRENTLY in a revision of their own, make a column NOT NULL in three steps, remove one in two releases.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}

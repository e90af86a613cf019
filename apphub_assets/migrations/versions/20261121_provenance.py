"""Which Dockerfile an image is made of, and which commit of a remote was looked at last."""

import sqlalchemy as sa
from alembic import op

revision = "20261121_provenance"
down_revision = "20261120_idempotency"

REMOTE_SHA = "commit that was looked at last, well or in vain"


def upgrade() -> None:
    op.add_column("builds", sa.Column("dockerfile_path", sa.String(), nullable=True), schema="catalog")
    op.add_column(
        "repositories", sa.Column("remote_sha", sa.String(), nullable=True, comment=REMOTE_SHA), schema="catalog"
    )
    # Nothing that is there is built or ingested again just because of this.
    op.execute(
        "UPDATE catalog.builds b SET dockerfile_path = coalesce(r.found_dockerfile, r.dockerfile_path, 'Dockerfile') "
        "FROM catalog.repositories r WHERE r.id = b.repository_id"
    )
    op.execute("UPDATE catalog.repositories SET remote_sha = commit_sha WHERE ingest_status <> 'failed'")


def downgrade() -> None:
    op.drop_column("repositories", "remote_sha", schema="catalog")
    op.drop_column("builds", "dockerfile_path", schema="catalog")

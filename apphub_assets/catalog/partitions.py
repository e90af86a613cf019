"""One partition per registered repository."""

import dagster as dg

repositories = dg.DynamicPartitionsDefinition(name="repositories")

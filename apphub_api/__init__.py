"""How people reach AppHub over HTTP and the command line. One router module per slice; no Dagster anywhere."""

"""What keeps the lake small and in order: each operation a job with a schedule, a dry run and a report."""

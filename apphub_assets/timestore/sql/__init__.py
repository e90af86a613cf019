"""Read-only SQL over the datasets of a caller, in a process of its own."""

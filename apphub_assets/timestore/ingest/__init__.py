"""From what a client delivers to a commit of the lake that has it exactly once."""

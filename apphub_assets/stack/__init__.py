"""The stack: every process that AppHub consists of on one machine, started, watched and stopped together.

Nouns: the *state folder* (`APPHUB_HOME`) holds all that the embedded stack keeps; a *child* is one process with its
command, environment and readiness probe; the *supervisor* starts children, restarts those that die and stops all.

`layout` says where things lie in the state folder, `postgres` runs the embedded database, `database` prepares any,
`lock` lets one stack at a time use a state folder, `supervisor` knows processes but nothing of AppHub, `stack` says
which children there are, `doctor` finds what is wrong, `throwaway` lends a database to tests and commands.
Owns no tables. Started by `apphub up` and `apphub demo` alone.
"""

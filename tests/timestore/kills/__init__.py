"""What survives `kill -9`: an API and its upkeep die at every point of a commit while clients send batches.

`python -m tests.timestore.kills --kills 200` prints what it found; `tests/timestore/test_kills.py` is the short form.

Clients repeat a batch under its key until they get a 201. After every kill the harness reads one snapshot: each batch
that was acknowledged before is there with all of its rows, each once; a batch that nobody acknowledged is there as a
whole or not at all; batches, manifests and rows tell the same counts; every file that the catalog names exists.
"""

"""`python -m tests.timestore.kills --kills 200`."""

import argparse
import tempfile
from pathlib import Path

from tests.timestore.kills.harness import killing, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="apphub-kills-") as folder,
        killing(Path(folder), clients=given.clients, seed=given.seed) as harness,
    ):
        harness.run(given.kills)
    print(report(harness.findings))  # noqa: T201


if __name__ == "__main__":
    main()

"""Write www/patterns.json from drawings: run `python patterns.py` after changing one."""

import json
from pathlib import Path

DRAWINGS = {
    "Glider": """
        .O.
        ..O
        OOO
    """,
    "R-pentomino": """
        .OO
        OO.
        .O.
    """,
    "Acorn": """
        .O.....
        ...O...
        OO..OOO
    """,
    "Spaceship": """
        .O..O
        O....
        O...O
        OOOO.
    """,
    "Gosper gun": """
        ........................O...........
        ......................O.O...........
        ............OO......OO............OO
        ...........O...O....OO............OO
        OO........O.....O...OO..............
        OO........O...O.OO....O.O...........
        ..........O.....O.......O...........
        ...........O...O....................
        ............OO......................
    """,
}


def cells(drawing: str) -> list[tuple[int, int]]:
    """The (column, row) of every O."""
    rows = drawing.split()
    return [(column, row) for row, line in enumerate(rows) for column, mark in enumerate(line) if mark == "O"]


if __name__ == "__main__":
    patterns = {name: cells(drawing) for name, drawing in DRAWINGS.items()}
    Path(__file__).with_name("www").joinpath("patterns.json").write_text(json.dumps(patterns) + "\n")

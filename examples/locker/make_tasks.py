"""Write lockers.jsonl: 400 rows, each a name and who has which locker."""

from __future__ import annotations

import json
import random
from pathlib import Path

NAMES = "Ada Ben Cleo Dan Eve Finn Gus Hal Ida Jon Kit Lou Mia Ned Ola Pia Quin Ray Sue Tom Uma Vic Wes Zoe".split()  # noqa: SIM905


def main() -> None:
    """Write the file beside this one."""
    rng = random.Random(0)
    with (Path(__file__).parent / "lockers.jsonl").open("w", encoding="utf-8") as file:
        for index in range(400):
            names = rng.sample(NAMES, 4)
            numbers = rng.sample(range(10, 100), 4)
            lockers = dict(zip(names, map(str, numbers), strict=True))
            file.write(json.dumps({"task_id": f"locker-{index:03d}", "name": names[0], "lockers": lockers}) + "\n")


if __name__ == "__main__":
    main()

"""Run every benchmark: `python -m bench [--quick]`."""

from __future__ import annotations

import sys

from bench import engine, learner


def main() -> None:
    """Run them one after the other; two heavy things at once would measure each other."""
    quick = "--quick" in sys.argv[1:]
    engine.main(quick=quick)
    learner.main(quick=quick)


if __name__ == "__main__":
    main()

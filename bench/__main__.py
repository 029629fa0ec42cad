"""Run benchmarks: `python -m bench [--quick]` for all, or `python -m bench train --quick` for one."""

from __future__ import annotations

import sys

from bench import engine, learner, profiling, rollout, sandbox, train


def main() -> None:
    """Run them one after the other; two heavy things at once would measure each other."""
    arguments = sys.argv[1:]
    chosen = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    quick = "--quick" in arguments
    if chosen in ("", "engine"):
        engine.main(quick=quick)
    if chosen in ("", "learner"):
        learner.main(quick=quick)
    if chosen in ("", "profile"):
        profiling.main(quick=quick)
    if chosen in ("", "rollout"):
        rollout.main(arguments[1:] if chosen else arguments)
    if chosen in ("", "sandbox"):
        sandbox.main(quick=quick)
    if chosen == "train":
        train.main(arguments[1:])
    elif not chosen and train.has_trl():
        train.main(arguments)
    elif not chosen:
        print(train.HOW)


if __name__ == "__main__":
    main()

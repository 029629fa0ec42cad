"""Run benchmarks: `python -m bench [--quick]` for all, or `python -m bench train --quick` for one."""

from __future__ import annotations

import sys
from collections.abc import Callable

from bench import engine, envs, inspector, learner, profiling, rollout, sandbox, train

BENCHES: dict[str, Callable[[list[str]], None]] = {
    "engine": lambda options: engine.main(quick="--quick" in options),
    "learner": lambda options: learner.main(quick="--quick" in options),
    "profile": lambda options: profiling.main(quick="--quick" in options),
    "rollout": rollout.main,
    "envs": lambda options: envs.main(quick="--quick" in options),
    "inspector": inspector.main,
    "sandbox": lambda options: sandbox.main(quick="--quick" in options),
    "train": train.main,
}


def main() -> None:
    """Run them one after the other; two heavy things at once would measure each other."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0].startswith("-"):
        _run_all(arguments)
    elif arguments[0] in BENCHES:
        BENCHES[arguments[0]](arguments[1:])
    else:
        sys.exit(f"no benchmark is called {arguments[0]!r}; there are: {', '.join(BENCHES)}")


def _run_all(options: list[str]) -> None:
    for name, bench in BENCHES.items():
        if name == "train" and not train.has_trl():
            print(train.HOW)
        else:
            bench(options)


if __name__ == "__main__":
    main()

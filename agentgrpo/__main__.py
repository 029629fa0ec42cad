"""`python -m agentgrpo`: the same command as `agentgrpo`, for the Python that is asked. It knows nothing else."""

from __future__ import annotations

from agentgrpo.cli.main import main

if __name__ == "__main__":
    main()

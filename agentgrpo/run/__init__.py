"""The parts of a run: opened, working, its state and checkpoints, watched, stopped, ended."""

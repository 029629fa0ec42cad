"""Stepping back into what was recorded: episodes played again, forked, scored anew; train steps made again."""

"""Tool APIs and simulated apps: state and functions.

Nothing here knows tasks, rewards or episodes.
"""

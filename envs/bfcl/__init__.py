"""The multi-turn part of the Berkeley Function Calling Leaderboard, version 4, as environments.

It knows no model; the tasks, apps and checks are those of the package `bfcl-eval`, none of it is evaluated as
code.
"""

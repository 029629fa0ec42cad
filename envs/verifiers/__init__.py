"""Environments of the package `verifiers` (its version 1 interface) played by our policy, in this process.

It knows no model; tasks, tools, users and rewards are the environment's own.
"""

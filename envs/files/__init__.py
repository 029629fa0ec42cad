"""A file system as an environment: tasks, oracle and reward over `agentgrpo.tools.files`.

It knows no model.
"""

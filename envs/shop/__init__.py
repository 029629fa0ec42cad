"""The back office of an online shop as an environment: tasks, oracle and reward over `agentgrpo.tools.shop`.

It knows no model.
"""

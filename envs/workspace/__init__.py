"""An office's calendar, mail and contacts as an environment: tasks, oracle and reward over `agentgrpo.tools.workspace`.

It knows no model.
"""

"""The numbers game countdown as an environment: tasks, solver and reward over `agentgrpo.tools.calculator`.

It knows no model.
"""

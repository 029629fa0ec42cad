"""Environments behind an OpenEnv server, over its WebSocket protocol; `agentgrpo env serve` is the other end.

It knows no model, and needs no package of OpenEnv's.
"""

"""Datasets of reasoning-gym as environments of one answer.

It knows no model; questions, answers and scores are those of the package `reasoning-gym`.
"""

"""Gymnasium environments played in text, unchanged and by configuration alone.

It knows no model.
"""

"""Lockbox: the smallest environment there is something to learn in, for tests and speed comparisons."""

"""Episodes: environments, engines and policies brought together, many at a time."""

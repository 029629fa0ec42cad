"""`agentgrpo doctor`: looks at everything a run will need, before the run."""

"""How well a policy does on held-out tasks: in a run, of a run's checkpoint, of a model behind an endpoint."""

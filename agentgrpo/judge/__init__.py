"""A chat model as a judge of episodes: what it is shown, what its answers say, what it may cost."""

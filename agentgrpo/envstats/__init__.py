"""Figures of an environment: how long its episodes are, what they earn, and whether a policy can learn from them."""

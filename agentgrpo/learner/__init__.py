"""The learner: advantages, ratios, losses and their denominators as pure functions, and the model they update."""

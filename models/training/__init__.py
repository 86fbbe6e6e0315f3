"""Training of any model: steps, evaluations, checkpoints, several processes."""

"""The training and the evaluation of the built-in checkpoint e5-mini."""

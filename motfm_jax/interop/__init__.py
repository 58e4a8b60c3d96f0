"""Weights, configs and data of the PyTorch original, in both directions."""

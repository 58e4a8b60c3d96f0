"""Optimisation: state, step, devices, loop."""

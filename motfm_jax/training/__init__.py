"""Optimisation: state, step, loop, memory and signals."""

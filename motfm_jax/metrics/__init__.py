"""Measures: arrays to numbers."""

"""Generating image sets."""

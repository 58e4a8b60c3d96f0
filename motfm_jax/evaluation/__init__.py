"""Scores, memorisation audit, restoration and downstream networks."""

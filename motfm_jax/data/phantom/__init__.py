"""Simulated data, the embedded default: nothing to download, masks and classes exact."""

from motfm_jax.data.phantom.sources import PhantomBrain, PhantomEcho
from motfm_jax.data.phantom.trees import write_camus_tree, write_decathlon_tree

__all__ = [
    "PhantomBrain",
    "PhantomEcho",
    "write_camus_tree",
    "write_decathlon_tree",
]

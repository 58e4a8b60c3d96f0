"""Trains networks on generated images: `motfm downstream`, from a checkout."""

from motfm_jax import cli

if __name__ == "__main__":
    cli.run("downstream")

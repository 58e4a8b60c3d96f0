"""Trains a model: `motfm train`, from a checkout."""

from motfm_jax import cli

if __name__ == "__main__":
    cli.run("train")

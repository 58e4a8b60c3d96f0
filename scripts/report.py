"""Runs the paper's comparison: `motfm report`, from a checkout."""

from motfm_jax import cli

if __name__ == "__main__":
    cli.run("report")

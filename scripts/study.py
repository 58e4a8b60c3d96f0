"""Asks readers to tell generated images from real ones: `motfm study`, from a checkout."""

from motfm_jax import cli

if __name__ == "__main__":
    cli.run("study")

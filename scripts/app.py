"""Samples runs on a page in the browser: `motfm app`, from a checkout."""

from motfm_jax import cli

if __name__ == "__main__":
    cli.run("app")

"""Exchanges weights with the PyTorch original: `motfm convert`, from a checkout."""

from motfm_jax import cli

if __name__ == "__main__":
    cli.run("convert")

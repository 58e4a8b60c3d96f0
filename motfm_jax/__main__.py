"""`python -m motfm_jax COMMAND`, the same as `motfm COMMAND`."""

from motfm_jax import cli

if __name__ == "__main__":
    cli.main()

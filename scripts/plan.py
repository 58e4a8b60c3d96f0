"""Says how much memory a training needs: `motfm plan`, from a checkout."""

from motfm_jax import cli

if __name__ == "__main__":
    cli.run("plan")

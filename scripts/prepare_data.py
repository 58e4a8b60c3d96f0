"""Looks at data before training, and turns one layout into another: `motfm prepare`.

.venv/bin/python scripts/prepare_data.py check --layout=camus --root=DIR
"""

from motfm_jax import cli
from motfm_jax.commands.prepare import main

if __name__ == "__main__":
    cli.run(main)

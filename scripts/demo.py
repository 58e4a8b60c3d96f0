"""The main job on simulated scans: train, sample with 1 and with 10 network calls, draw.

    bash scripts/demo.sh

leaves runs/demo/. Interrupted, the same command goes on where it was.
"""

from collections.abc import Sequence
from pathlib import Path

from motfm_jax import cli
from motfm_jax.demo import demo
from motfm_jax.io.compile_cache import enable_compile_cache


def main(arguments: Sequence[str]) -> None:
    if arguments:
        raise ValueError(f"{arguments[0]!r}: the demo takes no arguments")
    enable_compile_cache()
    demo(Path("runs/demo"))


if __name__ == "__main__":
    cli.run(main)

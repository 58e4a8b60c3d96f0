"""A page in the browser that samples runs: paint a mask, and the image follows the brush.

    motfm app --run=runs/camus
    motfm app --run=runs/camus --run=runs/camus_map --port=8000

Needs pip install 'motfm_jax[app]'. Class, seed, solver and steps, one step beside ten, many seeds
of one mask, the way from noise to image; what is shown can be saved, marked as synthetic. The page
is for this machine alone; with --host=0.0.0.0 for others too, then with a password that is
printed. It needs no network, and nothing is sent anywhere.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from motfm_jax import cli, library
from motfm_jax.app.desk import Desk
from motfm_jax.io.compile_cache import enable_compile_cache


def flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--run", required=True, type=Path, action="append", help="a run; several for several tabs")
    add("--checkpoint", default="best", help="best, last or a step; default: best")
    add("--data-root", help="where the data is now, if not where the runs found it")
    add("--host", default="127.0.0.1", help="default: this machine alone")
    add("--port", type=int, default=7860, help="default: 7860; 0 for any")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    args = flags(arguments)
    try:
        from motfm_jax.app import page, server
    except ImportError as error:
        raise ValueError(f"{error.name} is missing: pip install 'motfm_jax[app]'") from error
    enable_compile_cache()
    models = [library.load(run, args.checkpoint, args.data_root) for run in args.run]
    desks = list(map(Desk, models))
    with tempfile.TemporaryDirectory(prefix="motfm_app_") as folder:  # no other user can read it
        os.environ["GRADIO_TEMP_DIR"] = folder  # for uploads
        server.serve(page.page(desks, Path(folder)), page.style(), args.host, args.port)

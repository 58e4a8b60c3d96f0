"""Trains a flow-matching model.

    .venv/bin/python scripts/train.py --config=configs/phantom.py:cond=mask+class,size=small \
        --workdir=runs/phantom [--config.train.lr=3e-4 ...] [--resume | --overwrite]

Ctrl-C, SIGTERM or a terminal that closes saves and exits, with the shells' code for it (130, 143,
129), so that a scheduler can tell it from a training that is done; --resume goes on exactly where
it was. Several processes (one a node): the same command in each with --coordinator=auto under
SLURM, or with --coordinator=HOST:PORT --num_processes=N --process_id=I. When one of them dies, the
others are aborted within half a minute; start all of them again with --resume.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from motfm_jax import cli, parallel
from motfm_jax.io.compile_cache import enable_compile_cache
from motfm_jax.trainer import train

flags.DEFINE_string("workdir", None, "run directory to write")
flags.DEFINE_bool("resume", False, "go on with the run in workdir; start where nothing is yet")
flags.DEFINE_bool("overwrite", False, "delete the run in workdir")
flags.DEFINE_string("coordinator", "", 'several processes: "auto" or HOST:PORT of the first')
flags.DEFINE_integer("num_processes", None, "with --coordinator=HOST:PORT")
flags.DEFINE_integer("process_id", None, "with --coordinator=HOST:PORT, from 0")


def main(arguments: Sequence[str]) -> int:
    values, config = cli.parse_config_flags(arguments)
    if not values.workdir:
        raise ValueError("--workdir is missing: the directory to write the run to")
    enable_compile_cache()
    parallel.connect(values.coordinator, values.num_processes, values.process_id)
    outcome = train(config, Path(values.workdir), resume=values.resume, overwrite=values.overwrite)
    return 128 + outcome.stopped_by if outcome.stopped_by else 0


if __name__ == "__main__":
    cli.run(main)

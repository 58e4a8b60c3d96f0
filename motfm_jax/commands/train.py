"""Trains a model.

    motfm train --config=phantom:cond=mask+class,size=small --workdir=runs/phantom \\
        [--config.train.lr=3e-4 ...] [--resume | --overwrite]

--config is a file, or the name of a built-in one (folder, phantom, camus, brain, original), with
arguments after a colon. Ctrl-C, SIGTERM or a terminal that closes saves and exits with the shells'
code for it (130, 143, 129), so that a scheduler can tell it from a training that is done; --resume
continues exactly there. --config.train.init_from=RUN begins with the weights of another run.
Several processes (one a node): the same command in each with --coordinator=auto under SLURM, or
with --coordinator=HOST:PORT --num_processes=N --process_id=I. When one of them dies, the others are
aborted within half a minute; start all of them again with --resume.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from motfm_jax import cli, parallel
from motfm_jax.io import malloc
from motfm_jax.io.compile_cache import enable_compile_cache
from motfm_jax.trainer import train


def main(arguments: Sequence[str]) -> int:
    values = flags.FlagValues()
    own = dict(flag_values=values)
    flags.DEFINE_string("workdir", None, "run directory to write", **own)
    flags.DEFINE_bool("resume", False, "continue the run in workdir; start if there is none", **own)
    flags.DEFINE_bool("overwrite", False, "delete the run in workdir", **own)
    flags.DEFINE_string(
        "coordinator", "", 'several processes: "auto" or HOST:PORT of the first', **own
    )
    flags.DEFINE_integer("num_processes", None, "with --coordinator=HOST:PORT", **own)
    flags.DEFINE_integer("process_id", None, "with --coordinator=HOST:PORT, from 0", **own)
    config = cli.parse_config_flags(arguments, values, __doc__)
    if not values.workdir:
        raise ValueError("--workdir is missing: the directory to write the run to")
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's worker processes ask for it
    malloc.keep_freed()
    enable_compile_cache()
    parallel.connect(values.coordinator, values.num_processes, values.process_id)
    outcome = train(config, Path(values.workdir), resume=values.resume, overwrite=values.overwrite)
    if outcome.stopped_by:
        return 128 + outcome.stopped_by
    print(f"{values.workdir}: trained; to sample: motfm sample --run={values.workdir} --out=DIR")
    return 0

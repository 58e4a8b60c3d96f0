"""The library: configure, train, load, sample and export; `import motfm_jax as motfm`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from motfm_jax import build, datasets, presets, runs, settings, starts, trainer
from motfm_jax.core import Progress
from motfm_jax.data.cache import Arrays
from motfm_jax.data.joint import split
from motfm_jax.io.card import Card, write_card
from motfm_jax.io.compile_cache import enable_compile_cache
from motfm_jax.io.export import Sampler, check_destination, is_export, write_export
from motfm_jax.io.progress import progress_bar
from motfm_jax.io.run_folder import check_workdir
from motfm_jax.model import Bundle
from motfm_jax.nn.dispatch import Capabilities
from motfm_jax.sampling.conditions import Selection, choose
from motfm_jax.sampling.generate import Request
from motfm_jax.sampling.sample import Samples
from motfm_jax.sampling.sample import sample as sample_bundle


@dataclasses.dataclass(frozen=True, eq=False)
class Model(Bundle):
    """A trained model: `load` and `train` return one.

    Attributes:
      splits: the data opened so far, by split.

    The attributes of `model.Bundle` are here too, such as facts (sizes, class names, mask labels),
    config, params and step.
    """

    splits: dict[str, Arrays] = dataclasses.field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        kind, shape = f"{self.config.method}, cond={self.cond}", "x".join(map(str, self.facts.size))
        return f"Model({self.run}, step {self.step}: {kind}, images {shape})"

    def data(self, split: str = "valid") -> Arrays:
        """The data of the run: decoded once, then memory-mapped.

        Args:
          split: "train", "valid" or "test".

        Returns:
          images [N, *S, C] in the units of the files, masks [N, *S] labels or None, labels [N]
          class indices or None, and meta, one dict an example.

        Raises:
          ValueError: the data is not there, or has no such split.
        """
        if split not in self.splits:
            self.splits[split] = datasets.of_run(self, split)
        return self.splits[split]

    def sample(
        self,
        num: int | None = None,
        *,
        masks: np.ndarray | Sequence[np.ndarray] | Sequence[str | Path] = (),
        classes: str | Sequence[str] | Sequence[int] | np.ndarray = (),
        steps: int | None = None,
        solver: str = "",
        seed: int = 0,
        progress: Progress | None = None,
        **options: Any,
    ) -> Samples:
        """Generates images.

        Masks and classes that the model needs and that are not given come from its validation data.

        Args:
          num: N; None for as many as there are masks or classes, else 16.
          masks: labels [N, *S] (or a list of [*S]), floats [N, *S, C] as the network takes them, or
            files; see `sampling.inputs.read_masks`.
          classes: names or indices, one an image; or "A=10,B=5", or "A,B" in turn.
          steps: solver steps, default 10; of a flow map 1 jump, of a diffusion 50.
          solver: "euler" (default), "heun", "midpoint", "rk4", "tsit5", "dopri5" or "adaptive"; of
            a flow map "jump" (its default) too; of a diffusion "ddim".
          seed: image i starts from noise of (seed, i).
          progress: called after each batch.
          options: of the solver: rtol, atol, shift, eta, spacing. Of the request: noise or source
            (arrays [N, *S, C] to start from), batch, raw, trajectory, nifti, pickle, png. Of the
            conditions: split, fit, repeat (images of each condition, in a row). guidance=W leads
            away from what the flow makes of no condition, or with guide= from what a weaker one
            makes (a Model, "RUN" or "RUN@STEP"), where guidance_interval=(low, high) says; see
            docs/sampling.md. timed=True measures seconds an image after warm-up.

        Returns:
          Samples: images [N, *S, C] in the units of the data, calls [N] (NFE), show(), save().

        Raises:
          ValueError: an argument that the model does not take, or lacks one that it needs.
        """
        enable_compile_cache()
        selection_options = {
            key: options.pop(key) for key in ("split", "fit", "repeat") if key in options
        }
        selection = Selection(num, _listed(masks), classes, **selection_options)
        timed = options.pop("timed", False)
        noise, source = options.pop("noise", None), options.pop("source", None)
        request = {key: options.pop(key) for key in Request._fields if key in options}
        model, guide = self, options.pop("guide", None)
        if guide is not None:
            guide = guide if isinstance(guide, Bundle) else runs.load_guide(str(guide))
            model = self.guided_by(guide)
        chosen = model.solver(solver, steps, **options)
        start = starts.read(self, selection, noise, source, seed)
        rows = {} if start is None else {"noise" if source is None else "source": len(start)}
        conditions = choose(self, selection, self.data, rows)
        request = Request(chosen, seed, start, **request)
        return sample_bundle(model, conditions, request, timed=timed, progress=progress)


def load(run: str | Path, checkpoint: str | int = "best", data_root: str | None = None) -> Model:
    """A trained run, ready to sample from on this device.

    Args:
      run: run directory, a folder of `export`, or "hub:OWNER/NAME@REVISION" of a model hub, which
        needs `pip install 'motfm_jax[hub]'`. Nothing in it is executed.
      checkpoint: "best" (lowest validation loss), "last" or a step.
      data_root: where the data is now, if not where the run found it.

    Raises:
      ValueError: no such run or checkpoint.
    """
    return _model(runs.load_run(Path(run), checkpoint, data_root=data_root))


def config(
    base: str = "",
    *,
    method: str = "flow",
    cond: str = "none",
    size: str = "small",
    **fields: Any,
) -> ConfigDict:
    """A config to train with, checked.

    >>> import motfm_jax as motfm
    >>> config = motfm.config(cond="class", **{"data.size": (64, 64), "train.steps": 2000})
    >>> config.train.steps
    2000

    Args:
      base: a config file or the name of a built-in one, such as "camus"; "" for data from Python.
      method: of `motfm_jax.METHODS`: "flow", "flow_map", "ddpm" or "spade".
      cond: what images are conditioned on: "none", "class", "mask" or "mask+class".
      size: of the network and its training: "debug", "small" or "paper".
      fields: any field by its path, such as "train.lr". data.size decides between 2-D and 3-D.

    Raises:
      ValueError: a field that does not exist, or values that do not fit together.
    """
    if base:
        chosen = presets.read_config(f"{base}:method={method},cond={cond},size={size}")
    else:
        chosen = settings.default()
        chosen.method, chosen.cond, chosen.data.source = method, cond, "python"
        extents = fields.get("data.size", (0, 0))
        if np.shape(extents) not in ((2,), (3,)):
            raise ValueError(f"data.size={extents!r}: two or three numbers needed, as (64, 64)")
        presets.apply(chosen, len(extents), size)
    settings.assign(chosen, fields)
    settings.check(chosen)
    return chosen


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    train: Any = None,
    valid: Any = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Model:
    """Trains, and returns the model of the best checkpoint.

    Args:
      config: see `config`.
      workdir: run directory: checkpoints, metrics.jsonl, TensorBoard, pictures.
      train, valid: your own data, of different patients: anything with a length whose items are
        `Record`. With a method `fingerprint()` it is decoded into the cache on disk, without into
        memory. None reads what config.data names.
      resume: continue the run in workdir; start if there is none.
      overwrite: delete the run in workdir.
      progress: show a progress bar.

    Raises:
      ValueError: data, config and device do not fit together, or the directory cannot be had.
      NonFiniteError: the loss or a gradient was not finite; the last good state is saved.
      KeyboardInterrupt: stopped by a signal; saved, so that resume continues.
    """
    enable_compile_cache()
    if train is not None:
        config = config.copy_and_resolve_references()
        config.data.source = "python"
    settings.check(config)
    check_workdir(Path(workdir), resume=resume, overwrite=overwrite)
    with progress_bar(show=progress) as decoding:
        past = datasets.facts_of(Path(workdir)) if resume else None
        data = datasets.data(config, decoding, train, valid, past)
    outcome = trainer.train(
        config, Path(workdir), data=data, resume=resume, overwrite=overwrite, progress=progress
    )
    if outcome.stopped_by:
        raise KeyboardInterrupt(f"{workdir}: stopped after step {outcome.step}; resume continues")
    return _model(runs.load_run(Path(workdir)), {"train": data.train, "valid": data.valid})


def export(
    model: Model | str | Path,
    out: str | Path,
    *,
    checkpoint: str | int = "best",
    solver: str = "",
    steps: int | None = None,
    dtype: str = "",
    overwrite: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Writes weights and a compiled sampler that needs jax alone, for CPU and CUDA.

    Args:
      model: a loaded model (its own checkpoint is taken), or a run directory.
      out: folder to write.
      checkpoint: of a run directory: "best", "last" or a step.
      solver, steps: see `Model.sample`; the number of network calls is fixed.
      dtype: of convolutions and products, "float32" or "bfloat16"; "" for the run's, float32 where
        that is auto.
      overwrite: replace an export at `out`.
      options: of the solver, such as shift, guidance and guidance_interval.

    Returns:
      What was exported: solver, steps, calls, dtype, checkpoint, training_step, condition.

    Raises:
      ValueError: a solver whose number of network calls varies, a model that starts from images,
        or a destination that is taken.
    """
    guide = options.get("guide") or getattr(model, "guide", "")
    if guide:
        raise ValueError(f"guide={guide}: an exported sampler has one network; leave it out")
    if isinstance(model, Model):
        model, checkpoint = model.run, model.step
    check_destination(Path(out), overwrite)
    trained = runs.load_run(Path(model), checkpoint, attention="xla")
    if trained.starts_from_images:
        raise ValueError(
            f"{model}: config.flow.source={trained.config.flow.source!r}; only a sampler that "
            "starts from noise can be exported"
        )
    chosen = trained.solver(solver, steps, **options)
    if chosen.draws_noise:  # the program takes noise and no key
        chosen = trained.solver(solver, steps, **options | {"eta": 0.0})
    if chosen.num_calls is None:
        raise ValueError(
            f"--solver={chosen.name}: an exported program makes a fixed number of network calls; "
            "use euler, heun, midpoint, rk4, tsit5 or dopri5 with --steps"
        )
    config = trained.config.to_dict()
    if dtype:
        trained.config.train.dtype = dtype
    # Built for no device in particular: XLA attention, and float32 unless a type is named.
    built = build.architecture(trained.config, trained.facts, Capabilities("any"), attention="xla")

    def sample(params, x0, mask, label):
        condition = built.condition(mask, label)
        solution = trained.method.sample(built.network, params, x0, condition, chosen, None, False)
        images, made = split(solution.x, built.label_channels)
        return trained.intensity.invert(images), made

    about = dict(
        solver=chosen.name,
        steps=chosen.num_steps,
        calls=chosen.num_calls,
        dtype=built.dtype.__name__,
        **{key: value for key, value in chosen.settings().items() if key in ("shift", "guidance")},
        checkpoint=trained.checkpoint_hash,
        training_step=trained.step,
    )
    sampler = Sampler(sample, trained.params, trained.cond, config, trained.facts.to_json())
    write_export(Path(out), sampler, about, overwrite)
    return about | {"condition": trained.cond}


def card(
    folder: str | Path,
    *,
    data: str,
    licence: str,
    samples: str | Path | None = None,
    name: str = "",
) -> str:
    """Makes an export ready for a model hub: a card (README.md), weights as safetensors, and no
    paths of this machine in its config. Needs `pip install 'motfm_jax[hub]'`.

    Args:
      folder: of `export`.
      data: what the model was trained on, with source.
      licence: under which the weights may be used.
      samples: folder of samples of these weights, scored and audited; their numbers are shown.
      name: of the model; "" for the folder's.

    Returns:
      The card.

    Raises:
      ValueError: nothing said of data or licence, or samples of other weights or without scores.
    """
    if not is_export(Path(folder)):
        raise ValueError(f"{folder}: not an export; give a folder of motfm export")
    write_card(Path(folder), Card(data, licence, Path(samples) if samples else None, name))
    return (Path(folder) / "README.md").read_text(encoding="utf-8")


def _model(bundle: Bundle, splits: dict[str, Arrays] | None = None) -> Model:
    fields = {each.name: getattr(bundle, each.name) for each in dataclasses.fields(Bundle)}
    return Model(**fields, splits=splits or {})


def _listed(masks: Any) -> Any:
    if isinstance(masks, str | Path):
        return [masks]
    is_list_of_arrays = isinstance(masks, list | tuple) and any(map(np.ndim, masks))
    return np.stack(masks) if is_list_of_arrays else masks

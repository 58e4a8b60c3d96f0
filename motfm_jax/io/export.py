"""A trained sampler as a folder that needs neither this library nor Flax, Diffrax or Orbax.

    out/
      sampler.jax_export   (weights, noise [b, *S, C] float32, mask [b, *S] uint8 or None,
                            label [b] int32 or None) -> images [b, *S, C] float32, in the units of
                            the training data, for any batch size b; and, where a network makes
                            them too, label maps [b, *S] uint8
      noise.jax_export     (seed uint32, indices [b] int32) -> noise [b, *S, C] float32: what
                            motfm sample starts image `index` of `seed` from
      weights.npz          the EMA weights the sampler takes, flat: name -> array
      weights/             the same as an Orbax checkpoint, for any number of devices
      config.json          the run's resolved config
      facts.json           size, channels, classes, mask labels, intensity statistics
      export.json          what was exported: solver, steps, calls, condition, checkpoint
      example.py  README.txt

Noise is an argument of the sampler, so that one program serves a chosen start and a seed alike.
None stands for a condition that the network does not take.
"""

import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from motfm_jax.core import Array, Params, fold_keys, normal_per_example
from motfm_jax.io.checkpoints import Weights
from motfm_jax.io.folders import read_json, whole_folder, write_json
from motfm_jax.io.hashes import hash_arrays
from motfm_jax.io.npz import open_npz

# (params, x0 [B, *S, C + L], mask [B, *S] uint8 | None, label [B] int32 | None) ->
# (images [B, *S, C], the masks [B, *S] made with them or None)
SampleFn = Callable[[Params, Array, Array | None, Array | None], tuple[Array, Array | None]]


class Sampler(NamedTuple):
    """What is exported.

    Attributes:
      sample: pure, without callbacks to the host; gives images in the units of the training data.
      params: flat EMA weights.
      condition: "none", "class", "mask" or "mask+class": what the sampler takes.
      config: the resolved config, JSON-able.
      facts: JSON-able: "size", "channels", "classes", "mask_labels", "intensity",
        "label_channels", ...
    """

    sample: SampleFn
    params: Mapping[str, np.ndarray]
    condition: str
    config: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def noise_channels(self) -> int:
        return self.facts["channels"] + self.facts["label_channels"]


FORMAT = "motfm_jax export 1"
PLATFORMS = ("cpu", "cuda")


def sampler_program(exported: Sampler) -> bytes:
    """The serialised sampler of the module's docstring, for any batch size.

    An undeclared mask value or class index gives an image of NaN, never a plausible picture of
    something else.
    """
    facts, sample = exported.facts, exported.sample
    size, num_classes = tuple(facts["size"]), len(facts["classes"])
    num_mask_labels = len(facts["mask_labels"])
    with_mask, with_class = "mask" in exported.condition, "class" in exported.condition

    def sampler(params, noise, mask, label):
        images, made = sample(params, noise, mask, label)
        images = images.astype(jnp.float32)
        known = jnp.ones(noise.shape[:1], bool)
        if mask is not None:
            declared = mask.astype(jnp.int32) < num_mask_labels
            known &= jnp.all(declared, axis=tuple(range(1, mask.ndim)))
        if label is not None:
            known &= (label >= 0) & (label < num_classes)
        images = jnp.where(jnp.expand_dims(known, tuple(range(1, images.ndim))), images, jnp.nan)
        return images if made is None else (images, made)

    (batch,) = jax.export.symbolic_shape("b")
    arguments = (
        {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype)
            for name, array in exported.params.items()
        },
        jax.ShapeDtypeStruct((batch, *size, exported.noise_channels), jnp.float32),
        jax.ShapeDtypeStruct((batch, *size), jnp.uint8) if with_mask else None,
        jax.ShapeDtypeStruct((batch,), jnp.int32) if with_class else None,
    )
    return _serialise(sampler, arguments)


def noise_program(size: Sequence[int], channels: int) -> bytes:
    """The serialised (seed uint32, indices [b] int32) -> noise [b, *S, C] float32."""

    def start_noise(seed, indices):
        return normal_per_example(fold_keys(jax.random.key(seed), indices), (*size, channels))

    (batch,) = jax.export.symbolic_shape("b")
    arguments = (
        jax.ShapeDtypeStruct((), jnp.uint32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )
    return _serialise(start_noise, arguments)


def _serialise(function: Callable, arguments: tuple) -> bytes:
    limit = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)  # no paths of this machine
    try:
        exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
        return bytes(exported.serialize())
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)


def write_export(
    out: Path,
    sampler: Sampler,
    settings: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Writes the folder of the module's docstring, whole or not at all.

    Args:
      out: must not exist, unless it is an export and `overwrite` is set.
      sampler: what is exported.
      settings: JSON-able: solver, steps, calls, checkpoint and what else identifies the program.
      overwrite: replace an export that stands at `out`.

    Raises:
      ValueError: `out` is taken, or cannot be written.
    """
    check_destination(out, overwrite)
    facts, condition = sampler.facts, sampler.condition
    params = {name: np.asarray(array) for name, array in sampler.params.items()}
    program = sampler_program(sampler._replace(params=params))
    noise = noise_program(tuple(facts["size"]), sampler.noise_channels)
    description = dict(
        format=FORMAT,
        condition=condition,
        **settings,
        platforms=list(PLATFORMS),
        jax=jax.__version__,
    )
    example = example_text(facts, condition)
    with whole_folder(out, replace=overwrite) as folder:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / "weights", params)
        np.savez(folder / "weights.npz", **params)
        (folder / "sampler.jax_export").write_bytes(program)
        (folder / "noise.jax_export").write_bytes(noise)
        (folder / "example.py").write_text(example)
        (folder / "README.txt").write_text(readme_text(facts, description, example))
        write_json(folder / "config.json", sampler.config)
        write_json(folder / "facts.json", facts)
        write_json(folder / "export.json", description)


def check_destination(out: Path, overwrite: bool) -> None:
    """Raises ValueError if `out` cannot be written, or holds something that would be lost."""
    out = Path(out)
    if not out.exists() and not out.is_symlink():
        parent = next(path for path in out.absolute().parents if path.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise ValueError(f"{out}: {parent} is not a writable folder; name another")
        return
    if not is_export(out):
        raise ValueError(f"{out}: exists and is not an export; name a folder that does not exist")
    if not overwrite:
        raise ValueError(f"{out}: holds an export already; --overwrite replaces it")


def is_export(folder: Path) -> bool:
    """Whether `folder` was written by `write_export`."""
    try:
        return read_json(folder / "export.json")["format"] == FORMAT
    except (ValueError, TypeError, KeyError):
        return False


def read_export(folder: Path, which: str | int = "best") -> Weights:
    """The weights of an export, with their config and facts; nothing in it is executed.

    Args:
      folder: of `write_export`.
      which: "best", "last" or the step that was exported.

    Raises:
      ValueError: another step, or weights that are not those exported.
    """
    about = read_json(folder / "export.json")
    step = about["training_step"]
    if which not in ("best", "last", step):
        raise ValueError(f"{folder}: exported from step {step} alone, {which} asked for")
    with open_npz(folder / "weights.npz") as arrays:
        params = {name: np.asarray(arrays[name]) for name in arrays}
    if hash_arrays(params) != about["checkpoint"]:
        raise ValueError(
            f"{folder / 'weights.npz'}: not the weights that were exported; fetch it again"
        )
    config, facts = (read_json(folder / name) for name in ("config.json", "facts.json"))
    return Weights(params, step, config, facts, folder)


def example_text(facts: Mapping[str, Any], condition: str) -> str:
    """The script that samples four images from the folder it lies in."""
    size, mask_labels, classes = tuple(facts["size"]), facts["mask_labels"], facts["classes"]
    lines = ""
    if "mask" in condition:
        middle = ", ".join(f"{extent // 4}:{extent - extent // 4}" for extent in size)
        lines += f"mask = np.zeros({(4, *size)}, np.uint8)  # yours: {_named(mask_labels)}\n"
        lines += f"mask[:, {middle}] = {len(mask_labels) - 1}\n"
    if "class" in condition:
        lines += f"label = np.arange(4, dtype=np.int32) % {len(classes)}  # {_named(classes)}\n"
    makes_masks = facts["label_channels"]
    return EXAMPLE.format(
        condition=lines,
        made="images, masks" if makes_masks else "images",
        save=f'\nnp.save("masks.npy", masks)  # {_named(mask_labels)}' if makes_masks else "",
        shape=", ".join(map(str, (4, *size, facts["channels"]))),
        mask="mask" if "mask" in condition else None,
        label="label" if "class" in condition else None,
    )


def _named(names: Sequence[str]) -> str:
    """One line for a comment, whatever line breaks the names from data files hold."""
    return ", ".join(f"{index} {' '.join(str(name).split())}" for index, name in enumerate(names))


EXAMPLE = """\
import pathlib

import jax
import jax.export
import numpy as np

folder = pathlib.Path(__file__).parent
read = lambda name: jax.jit(jax.export.deserialize((folder / name).read_bytes()).call)
start_noise, sampler = read("noise.jax_export"), read("sampler.jax_export")
weights = dict(np.load(folder / "weights.npz"))
noise = start_noise(np.uint32(0), np.arange(4, dtype=np.int32))  # a seed, and an index per image
{condition}{made} = sampler(weights, noise, {mask}, {label})  # [{shape}], in the data's units
np.save("images.npy", images){save}
"""


def readme_text(facts: Mapping[str, Any], description: Mapping[str, Any], example: str) -> str:
    """What the folder is and how it is used."""
    condition, space = description["condition"], ", ".join(["b", *map(str, facts["size"])])
    mask, makes_masks = f"[{space}] uint8: {_named(facts['mask_labels'])}", facts["label_channels"]
    label = f"[b] int32: {_named(facts['classes'])}"
    return README.format(
        settings="\n".join(f"  {name}: {value}" for name, value in description.items()),
        example=textwrap.indent(example, "    "),
        noise=f"{space}, {facts['channels'] + makes_masks}",
        image=f"{space}, {facts['channels']}",
        made=f"\n                      and label maps {mask}" if makes_masks else "",
        mask=mask if "mask" in condition else None,
        label=label if "class" in condition else None,
    )


README = """\
A generative model of medical images, exported by motfm_jax. All its images are synthetic.

{settings}

It needs Python with three packages: pip install jax numpy flatbuffers (or jax[cuda13] for a GPU).
example.py, which is

{example}
samples four images into images.npy. The two programs take any batch size b:

  noise.jax_export    seed uint32, indices [b] int32 -> noise [{noise}] float32
  sampler.jax_export  weights, noise [{noise}] float32,
                      mask: {mask},
                      label: {label}
                      -> images [{image}] float32, intensity scaling already undone{made}

The same seed and index give the same noise as `motfm sample --seed` gives that image. A label
or class that does not exist gives an image of NaN.

JAX promises that a serialised program runs with versions up to six months newer than the one
above; after that motfm export writes a new one. weights.npz and config.json do not age.
weights/ holds the same arrays for Orbax, whatever the number of devices:

    orbax.checkpoint.StandardCheckpointer().restore(absolute_path_of_weights)
"""

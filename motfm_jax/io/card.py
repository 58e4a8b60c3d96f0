"""Model cards: an export made ready for a model hub."""

import importlib.util
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from motfm_jax.io.folders import read_json, whole_file, write_json
from motfm_jax.io.npz import open_npz
from motfm_jax.io.places import without_places
from motfm_jax.io.torch_files import save_safetensors

# Licences that hubs know by name.
KNOWN = {"apache-2.0", "bsd-3-clause", "mit", "cc0-1.0"}
KNOWN |= {f"cc-by{terms}-4.0" for terms in ("", "-sa", "-nc", "-nc-sa")}
PARENTS = {  # fields that name runs, and what they say of a model
    "init_from": "began with the weights of",
    "base": "has the UNet, unchanged, of",
    "teacher": "was taught by the flow of",
}


class Card(NamedTuple):
    """What only its author knows of a model.

    Attributes:
      data: what it was trained on, with source.
      licence: under which the weights may be used.
      samples: folder of motfm sample whose scores and audit are shown; None for none.
      name: of the model; "" for the folder's.
    """

    data: str
    licence: str
    samples: Path | None = None
    name: str = ""


def write_card(folder: Path, card: Card) -> None:
    """Adds README.md, the card, and model.safetensors to an export; takes out of it README.txt,
    Orbax's copy of the weights, and the paths of this machine in config.json.

    Args:
      folder: of `write_export`.
      card: see `Card`.

    Raises:
      ValueError: data or licence is empty, the samples are of other weights or another sampler or
        were not scored, or safetensors is missing.
    """
    check_card(card)
    about, config, facts = (
        read_json(folder / f"{name}.json") for name in ("export", "config", "facts")
    )
    measures = _measures(card.samples, about) if card.samples else NOT_MEASURED
    # Orbax notes the place it wrote to, and the same arrays are there twice; README.txt names them.
    shutil.rmtree(folder / "weights", ignore_errors=True)
    (folder / "README.txt").unlink(missing_ok=True)
    with open_npz(folder / "weights.npz") as arrays:
        params = {name: arrays[name] for name in arrays}
    save_safetensors(folder / "model.safetensors", params)
    config = without_places(config)
    write_json(folder / "config.json", config)
    count = sum(array.size for array in params.values())
    text = _text(card.name or folder.name, card, about, config, facts, count)
    with whole_file(folder / "README.md") as draft:
        draft.write_text(text + measures + USE, encoding="utf-8")


def check_card(card: Card) -> None:
    """Raises ValueError for a card that no export could have: see `write_card`."""
    for name in ("data", "licence"):
        if not getattr(card, name).strip():
            raise ValueError(
                f"--{name} is empty: a card says what the model was trained on, and under which "
                "licence it may be used"
            )
    if importlib.util.find_spec("safetensors") is None:
        raise ValueError("a card needs safetensors; pip install 'motfm_jax[hub]'")
    if card.samples and not (card.samples / "score.md").is_file():
        raise ValueError(f"{card.samples}: not scored yet; call motfm evaluate score first")


def _measures(samples: Path, about: Mapping[str, Any]) -> str:
    """Scores with their floors, and the audit, of images made by the exported sampler."""
    sidecar = read_json(samples / "samples.json", "give a folder of motfm sample")
    if sidecar.get("checkpoint") != about["checkpoint"]:
        raise ValueError(f"{samples}: its images come from other weights than the export")
    solver = sidecar["solver"]
    for name in ("name", "steps", "shift", "guidance"):
        made, exported = solver.get(name), about.get("solver" if name == "name" else name)
        if made != exported:
            raise ValueError(
                f"{samples}: sampled with {name} {made}, exported with {exported}; a card shows "
                "what the exported sampler makes: sample, or export, with the same"
            )
    lines = ["## Measures", "", f"Of {sidecar['num']} images by the compiled sampler.", ""]
    lines += [(samples / "score.md").read_text(encoding="utf-8").strip(), ""]
    audit = samples / "audit.json"
    if audit.is_file():
        found = read_json(audit)
        lines += [
            f"Copies of training images (`motfm evaluate audit`): {found['share_closer']:.1%} of "
            "the images lie nearer to a training image than 95% of held-out real images do; 5% or "
            "less is expected without copying.",
            "",
        ]
    else:
        lines += ["Copies of training images were not looked for.", ""]
    return "\n".join(lines) + "\n"


def _text(
    name: str,
    card: Card,
    about: Mapping[str, Any],
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    count: int,
) -> str:
    size = " x ".join(map(str, facts["size"]))
    rows = {
        "method": config["method"],
        "condition": about["condition"],
        "images": f"{size}, {facts['channels']} channel{'s' * (facts['channels'] > 1)}",
        "classes": ", ".join(facts["classes"]),
        "mask labels": ", ".join(facts["mask_labels"]),
        "parameters": f"{count:,}",
        "training": f"{about['training_step']:,} updates of {config['train']['batch_size']} images",
        "compiled sampler": f"{about['solver']}, {about['calls']} network calls an image",
        "weights": f"blake2b {about['checkpoint']}",
    }
    rows["parent"] = "; ".join(
        f"{words} {config['train'][field]}"
        for field, words in PARENTS.items()
        if config["train"][field]
    )
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items() if value)
    known = card.licence.strip().lower().replace(" ", "-")
    return HEAD.format(
        name=name,
        title=json.dumps(name),
        sample=_sample(about["condition"], facts),
        licence=known if known in KNOWN else f"other\nlicense_name: {json.dumps(card.licence)}",
        table=table,
        data=card.data,
        terms=card.licence,
    )


def _sample(condition: str, facts: Mapping[str, Any]) -> str:
    """The lines that load the model and sample four images, with what it takes."""
    lines, arguments = ["import motfm_jax as motfm", "", LOAD], ["4"]
    if "mask" in condition:
        labels = ", ".join(f"{number} {name}" for number, name in enumerate(facts["mask_labels"]))
        lines.insert(0, "import numpy as np")
        lines += [f"masks = np.zeros({(4, *facts['size'])}, np.uint8)  # yours: {labels}"]
        arguments += ["masks=masks"]
    if "class" in condition:
        arguments += [f"classes={json.dumps(','.join(facts['classes']))}"]
    return "\n".join([*lines, f"model.sample({', '.join(arguments)}).show()"])


LOAD = 'model = motfm.load("PATH OF THIS FOLDER")  # or "hub:OWNER/NAME@REVISION"'
HEAD = """\
---
library_name: motfm_jax
license: {licence}
model_name: {title}
tags: [medical-imaging, flow-matching, image-generation, jax, synthetic]
---

# {name}

A generative model of medical images, trained with motfm_jax. **All its images are synthetic.**

```python
{sample}
```

`example.py` samples without the library, with jax, numpy and flatbuffers alone. Nothing here has to
be executed to load the weights: `model.safetensors` and `weights.npz` hold the same arrays.

| | |
|---|---|
{table}

## Training data

{data}

Licence of the weights: {terms}.

"""

NOT_MEASURED = """\
## Measures

None were given.

"""

USE = """\
## Use

Meant for research: comparing generative models, augmenting training data, teaching. Not meant for
diagnosis, for judging a patient, or for passing images off as real: keep them marked as synthetic.
The images have the biases of the training data, and may show anatomy that does not exist.
"""

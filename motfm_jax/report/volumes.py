"""Volumes that turn in a page: NiiVue, out of the bundle that the package ipyniivue installs."""

import base64
import gzip
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import nibabel
import numpy as np

from motfm_jax.io.tiles import View


def viewer(
    volumes: Mapping[str, np.ndarray], view: View, affine: Sequence[Sequence[float]] | None
) -> str:
    """A part of a page in which volumes are turned and cut; it needs no network.

    Args:
      volumes: [I, J, K, C] by title; each channel is shown apart.
      view: what is black and white.
      affine: 4 x 4, from voxels to RAS+ millimetres; None for cubes of 1 mm.

    Returns:
      HTML; "" where there are no volumes, or ipyniivue is not installed.
    """
    if not volumes or importlib.util.find_spec("ipyniivue") is None:
        return ""
    package = importlib.metadata.distribution("ipyniivue")
    bundle = Path(package.locate_file("ipyniivue/static/widget.js")).read_bytes()
    files = {
        title: _packed(_nifti(channel, float(low), float(high), affine))
        for name, volume in volumes.items()
        for title, channel, low, high in zip(
            _titles(name, view.names, volume.shape[-1]),
            np.moveaxis(volume, -1, 0),
            *view.windows(volume.shape[-1]),
        )
    }
    choices = "".join(f"<option>{escape(title)}</option>" for title in files)
    listed = json.dumps(files).replace("<", "\\u003c")
    script = Path(__file__).with_name("volumes.js").read_text(encoding="utf-8")
    return f"""<h2 class="screen">Volumes</h2>
<details class="screen" id="volumes"><summary>Turn and cut generated volumes</summary>
<p><label>Volume <select id="volume">{choices}</select></label>: drag the fourth view to turn it,
scroll in a plane to go through it.</p>
<div id="turning"></div></details>
<script type="application/json" id="volume-files">{listed}</script>
<!-- NiiVue, as the package ipyniivue {package.version} holds it:
{package.read_text("licenses/LICENSE")}
-->
<script type="text/plain" id="niivue">{_packed(bundle)}</script>
<script type="module">{script}</script>
"""


def _titles(name: str, channels: Sequence[str], count: int) -> list[str]:
    if count == 1:
        return [name]
    return [f"{name}, {channel}" for channel in channels or range(1, count + 1)]


def _nifti(
    volume: np.ndarray, low: float, high: float, affine: Sequence[Sequence[float]] | None
) -> bytes:
    grey = np.clip((np.asarray(volume, np.float32) - low) / (high - low), 0, 1)
    placed = np.eye(4) if affine is None else np.array(affine, np.float64)
    return nibabel.Nifti1Image(np.rint(grey * 255).astype(np.uint8), placed).to_bytes()


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()

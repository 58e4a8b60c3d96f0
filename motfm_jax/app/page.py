"""The page: a tab for each run, its controls, and what they draw. Gradio lays it out."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from motfm_jax.app import pictures
from motfm_jax.app.desk import Controls, Desk
from motfm_jax.io.tiles import MASK_COLOURS
from motfm_jax.sampling.inputs import MASK_SUFFIXES

MOST_STEPS = 50
MOST_GUIDANCE = 5.0
MOST_SAVED = 64
AXES = ("sagittal", "coronal", "axial")

NOTE = (
    "Every image is synthetic. It is research software, not a medical device. Nothing leaves this "
    "machine."
)
STYLE = """
figure { margin: 0; display: flex; flex-wrap: wrap; gap: 4px; }
figure img { image-rendering: pixelated; max-width: 100%; height: auto; }
figcaption { width: 100%; }
/* Gradio's own are too light to read. */
button[role=tab].selected, .min_value, .max_value { color: inherit !important; }
"""
BRUSH = """
<div class="labels" role="group" aria-label="label to paint"></div>
<canvas aria-label="mask to paint on"></canvas>
<div><label>brush <input type="range" min="1" max="12" value="3"></label>
<button class="undo">undo</button> <button class="clear">clear</button></div>
"""
BRUSH_STYLE = """
canvas { width: 384px; max-width: 100%; image-rendering: pixelated; cursor: crosshair;
  touch-action: none; border: 1px solid #888; }
button { padding: 2px 8px; border: 2px solid #888; border-radius: 4px; margin: 2px; }
button[aria-pressed=true] { font-weight: bold; text-decoration: underline; }
"""


def page(desks: Sequence[Desk], folder: Path) -> gr.Blocks:
    """A tab for each run, in this order.

    Args:
      desks: of the runs.
      folder: for the files that are saved.
    """
    with gr.Blocks(title="motfm_jax", analytics_enabled=False) as blocks:
        gr.Markdown(NOTE)
        with gr.Tabs():
            for desk in desks:
                with gr.Tab(desk.model.run):
                    _Tab(desk, blocks, folder)
    return blocks


def style() -> dict[str, Any]:
    """Of the page, for Gradio: fonts of the machine, as others would come from the network."""
    return {"theme": gr.themes.Default(font="sans-serif", font_mono="monospace"), "css": STYLE}


class _Tab:
    """The components of a run, and what happens when they change.

    Attributes:
      fields: the controls that the run has, by the field of `Controls` that each one sets.
      record: the number of the validation image whose condition is taken, or None.
    """

    def __init__(self, desk: Desk, blocks: gr.Blocks, folder: Path):
        self.desk = desk
        self.folder = folder
        self.fields: dict[str, Any] = {}
        self.record: Any = None
        with gr.Row():
            with gr.Column(min_width=400):
                self._lay_out_controls()
            with gr.Column(min_width=400):
                self._lay_out_pictures(blocks)

    def _lay_out_controls(self) -> None:
        desk, model = self.desk, self.desk.model
        if desk.records is not None and model.cond != "none":
            last = max(1, len(desk.records) - 1)  # a slider has two ends
            taken = " and ".join(part for part in ("mask", "class") if part in model.cond)
            self.record = gr.Slider(0, last, 0, step=1, label=f"{taken} of validation image")
        if "mask" in model.cond:
            self._lay_out_mask()
        if "class" in model.cond:
            self.fields["label"] = gr.Dropdown(list(model.facts.classes), label="class")
        with gr.Row():
            seed = gr.Number(0, label="seed", precision=0, minimum=0, maximum=2**32 - 1)
            another = gr.Button("another seed", size="sm")
            another.click(lambda seed: (int(seed or 0) + 1) % 2**32, seed, seed, **_QUICK)
        self.fields["seed"] = seed
        if desk.solvers:
            self.fields["solver"] = gr.Dropdown(desk.solvers, label="solver")
            steps = gr.Slider(1, MOST_STEPS, desk.default_steps, step=1, label="steps")
            self.fields["steps"] = steps
        if desk.can_be_guided:
            self.fields["guidance"] = gr.Slider(
                1, MOST_GUIDANCE, 1, step=0.1, label="guidance (1: none)"
            )
        if "mask" in model.cond:
            self.fields["outlines"] = gr.Checkbox(False, label="outline the mask")
        if desk.is_volume:
            for axis in reversed(AXES):
                cut = gr.Slider(0, 1, 0.5, step=0.01, label=f"{axis} plane")
                self.fields[axis] = cut

    def _lay_out_mask(self) -> None:
        desk, facts = self.desk, self.desk.model.facts
        text = pictures.encode(np.zeros(desk.size, np.uint8))
        if desk.is_volume:
            self.fields["mask"] = gr.State(text)
        else:
            self.fields["mask"] = gr.HTML(
                text,
                html_template=BRUSH,
                css_template=BRUSH_STYLE,
                js_on_load=(Path(__file__).parent / "brush.js").read_text(encoding="utf-8"),
                elem_classes="brush",
                shape=list(desk.size),
                names=list(facts.mask_labels),
                colours=[f"#{bytes(each).hex()}" for each in MASK_COLOURS],
            )
        with gr.Accordion("a mask file", open=False):
            file = gr.File(file_types=list(MASK_SUFFIXES), height=120)
        file.upload(_with_message(self._read_mask), file, self.fields["mask"], **_QUICK)

    def _lay_out_pictures(self, blocks: gr.Blocks) -> None:
        controls = set(self.fields.values())
        with gr.Tabs():
            with gr.Tab("image"):
                image = gr.HTML(elem_classes="made")
            if self.desk.solvers:
                with gr.Tab("1 and 10 steps"):
                    self._lay_out_button(controls, self.desk.compare)
            with gr.Tab("seeds"):
                self._lay_out_button(controls, self.desk.seeds)
            if self.desk.solvers:
                with gr.Tab("noise to image"):
                    self._lay_out_trajectory(controls)
            with gr.Tab("save"):
                count = gr.Number(1, label="images", precision=0, minimum=1, maximum=MOST_SAVED)
                saved = gr.File(label="a zip of npz, PNG or NIfTI, and the sidecar", visible=False)
                save = gr.Button("make the file")
                save.click(_with_message(self._save), controls | {count}, saved, **_SLOW)
                self.count = count
        call = _with_message(functools.partial(self._draw, self.desk.image))
        draw = dict(fn=call, inputs=controls, outputs=image)
        for name, control in self.fields.items():
            # A brush does not wait; other settings may need a new program.
            control.change(**draw, **(_QUICK if name == "mask" else _SHOWN))
        if self.record is None:
            blocks.load(**draw, **_SHOWN)
            return
        outputs = [self.fields[name] for name in ("mask", "label") if name in self.fields]
        take = dict(fn=_with_message(self._record), inputs=self.record, outputs=outputs)
        self.record.change(**take, **_QUICK)
        blocks.load(**take, **_QUICK).then(**draw, **_SHOWN)

    def _lay_out_button(self, controls: set, draw: Callable[[Controls], str]) -> None:
        button, picture = gr.Button("draw"), gr.HTML(elem_classes="made")
        button.click(_with_message(functools.partial(self._draw, draw)), controls, picture, **_SLOW)

    def _lay_out_trajectory(self, controls: set) -> None:
        states = gr.State([])
        button = gr.Button("draw")
        at = gr.Slider(0, 1, 0, step=1, label="steps made", visible=False)
        picture = gr.HTML(elem_classes="made")
        button.click(_with_message(self._trajectory), controls, [states, at, picture], **_SLOW)
        at.input(lambda states, at: states[int(at)], [states, at], picture, **_QUICK)

    def _said(self, values: Mapping[Any, Any]) -> Controls:
        """What the controls say."""
        said = {name: values[control] for name, control in self.fields.items()}
        if "mask" in said:
            facts = self.desk.model.facts
            said["mask"] = pictures.decode(said["mask"], self.desk.size, len(facts.mask_labels))
        if said.get("guidance") == 1:
            said["guidance"] = None
        for name in ("seed", "steps"):
            if name in said:
                said[name] = int(said[name] or 0)
        if self.desk.is_volume:
            said["at"] = [said.pop(axis) for axis in AXES]
        return Controls(**said)

    def _draw(self, draw: Callable[[Controls], str], values: Mapping[Any, Any]) -> str:
        return draw(self._said(values))

    def _trajectory(self, values: Mapping[Any, Any]) -> tuple[list[str], Any, str]:
        states = self.desk.trajectory(self._said(values))
        last = len(states) - 1
        return states, gr.update(maximum=last, value=last, visible=True), states[-1]

    def _save(self, values: Mapping[Any, Any]) -> Any:
        made = self.desk.save(self._said(values), int(values[self.count] or 1), self.folder)
        return gr.update(value=str(made), visible=True)

    def _read_mask(self, path: str) -> str:
        return pictures.encode(self.desk.read_mask(path))

    def _record(self, number: float) -> Any:
        mask, label = self.desk.record(int(number))
        parts = [pictures.encode(mask)] if mask is not None else []
        parts += [label] if label else []
        return parts[0] if len(parts) == 1 else parts


def _with_message(call: Callable) -> Callable:
    """The same call; a user's mistake becomes a message on the page."""

    @functools.wraps(call)
    def wrapped(*values: Any) -> Any:
        try:
            return call(*values)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return wrapped


# One call after another: the device is one. The newest strokes win.
_ONE = dict(concurrency_limit=1, concurrency_id="device", api_visibility="private")
_SHOWN: dict[str, Any] = dict(trigger_mode="always_last", show_progress="minimal", **_ONE)
_QUICK: dict[str, Any] = _SHOWN | dict(show_progress="hidden")
_SLOW: dict[str, Any] = dict(show_progress="full", **_ONE)

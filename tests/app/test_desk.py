"""What the page draws for a run's choices, without a page."""

import base64
import dataclasses
import io
import json
import re
import zipfile

import numpy as np
import pytest
from PIL import Image
from tiny import FACTS, ONE_LEVEL, make_config, save_run

from motfm_jax import library
from motfm_jax.app import pictures
from motfm_jax.app.desk import Controls, Desk


def desk(folder, facts=FACTS, **changes):
    return Desk(library.load(save_run(folder, make_config(**ONE_LEVEL, **changes), facts)))


def frames(html):
    """The pictures in HTML, as arrays."""
    found = re.findall(r"base64,([^\"]+)", html)
    opened = [Image.open(io.BytesIO(base64.b64decode(text))) for text in found]
    return [np.asarray(image.convert("RGB")) for image in opened]


MASK = np.zeros((16, 16), np.uint8)
MASK[4:12, 6:10] = 1
SET = Controls(MASK, "2CH_ES", seed=3, steps=2)


def test_a_mask_goes_to_the_page_and_comes_back():
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    assert (pictures.decode(pictures.encode(mask), (3, 4), 3) == mask).all()
    for text, fault in (("!", "cannot be read"), (pictures.encode(mask[:2]), "cannot be read")):
        with pytest.raises(ValueError, match=fault):
            pictures.decode(text, (3, 4), 3)
    with pytest.raises(ValueError, match="label 2, labels below 2"):
        pictures.decode(pictures.encode(mask), (3, 4), 2)


def test_planes_are_cut_where_they_are_asked_for_with_front_and_top_upwards():
    i, j, k = np.indices((3, 4, 5))
    axial, coronal, sagittal = pictures.planes(100 * i + 10 * j + k, (1, 0, 0.5))
    assert (axial == [[100 * i + 10 * j + 2 for i in range(3)] for j in (3, 2, 1, 0)]).all()
    assert (coronal == [[100 * i + k for i in range(3)] for k in (4, 3, 2, 1, 0)]).all()
    assert (sagittal == [[200 + 10 * j + k for j in range(4)] for k in (4, 3, 2, 1, 0)]).all()


def test_a_flow_draws_images_seeds_and_trajectories(tmp_path):
    flow = desk(tmp_path / "run")
    assert flow.solvers[:2] == ["euler", "heun"] and "jump" not in flow.solvers
    assert flow.default_steps == 10 and not flow.can_be_guided
    html = flow.image(SET)
    (image,) = frames(html)
    assert "synthetic, 2 network calls" in html and image.shape == (16, 16, 3)
    many = frames(flow.seeds(SET))
    assert len(many) == 16 and (many[0] == image).all() and (many[1] != image).any()
    few, ten = flow.compare(SET).split("</figure>")[:2]
    assert "1 network call<" in few and "10 network calls<" in ten
    states = flow.trajectory(SET)
    assert len(states) == 3 and (frames(states[-1])[0] == image).all()
    (outlined,) = frames(flow.image(SET._replace(outlines=True)))
    assert (outlined != image).any()
    assert (frames(flow.image(SET._replace(mask=MASK.T)))[0] != image).any()


def test_what_is_saved_is_what_is_shown_and_says_that_it_is_synthetic(tmp_path):
    flow = desk(tmp_path / "run")
    file = flow.save(SET, 2, tmp_path)
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        sidecar = json.loads(archive.read("samples/samples.json"))
        with archive.open("samples/samples.npz") as stream:
            images = np.load(io.BytesIO(stream.read()))["images"]
    assert sidecar["synthetic"] is True
    ends = {name.rpartition("_")[2].partition(".")[2] for name in names}
    assert {"png", "nii.gz"} <= ends, names
    made = flow.model.sample(masks=np.stack([MASK] * 2), classes=["2CH_ES"] * 2, steps=2, seed=3)
    np.testing.assert_array_equal(images, made.images)


def test_conditions_of_validation_images_and_of_files(tmp_path):
    flow = desk(tmp_path / "run")
    mask, label = flow.record(1)
    valid = flow.model.data("valid")
    assert (mask == valid.masks[1]).all() and label == FACTS.classes[valid.labels[1]]
    with pytest.raises(ValueError, match=f"there are {len(valid)}"):
        flow.record(len(valid))
    Image.fromarray(MASK).save(tmp_path / "mask.png")
    assert (flow.read_mask(tmp_path / "mask.png") == MASK).all()
    Image.fromarray(MASK * 9).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"^mask.png: .*9"):
        flow.read_mask(tmp_path / "mask.png")
    np.save(tmp_path / "masks.npy", np.stack([MASK, MASK]))
    with pytest.raises(ValueError, match=r"masks.npy: uint8 \(2, 16, 16\), one map"):
        flow.read_mask(tmp_path / "masks.npy")


def test_volumes_are_three_planes(tmp_path):
    facts = dataclasses.replace(FACTS, size=(8, 8, 8), mask_labels=("background", "a"), classes=())
    brains = desk(tmp_path / "run", facts, dims=3, cond="none")
    controls = Controls(steps=1)
    planes = frames(brains.image(controls))
    assert [plane.shape for plane in planes] == [(8, 8, 3)] * 3
    moved = frames(brains.image(controls._replace(at=(0.5, 0.5, 0))))
    assert (moved[0] != planes[0]).any() and (moved[1] == planes[1]).all()
    assert len(frames(brains.seeds(controls))) == 6


def test_runs_without_steps_and_runs_that_start_from_images(tmp_path):
    spade = desk(tmp_path / "spade", method="spade", cond="mask")
    assert spade.solvers == [] and spade.default_steps is None
    assert "1 network call<" in spade.image(Controls(MASK))
    with pytest.raises(ValueError, match="starts from images"):
        desk(tmp_path / "speckle", cond="none", flow__source="speckle")

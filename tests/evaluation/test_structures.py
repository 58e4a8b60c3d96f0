"""Generated label maps beside real ones."""

import dataclasses
import json

import numpy as np
import pytest

from motfm_jax.data.cache import Arrays
from motfm_jax.evaluation.sets import Real
from motfm_jax.evaluation.structures import compare, of_samples
from motfm_jax.sampling.outputs import FORMAT

NAMES = ("background", "cavity", "wall")


def maps(num, seed, size=16):
    """Cavities of random radius in the middle of a wall."""
    radii = np.random.default_rng(seed).uniform(2.5, 4, num)[:, None, None]
    distance = np.linalg.norm(np.indices((size, size)) - (size - 1) / 2, axis=0)[None]
    return ((distance < radii) + 2 * ((distance >= radii) & (distance < radii + 2))).astype(
        np.uint8
    )


def real(name, masks):
    images = np.zeros((*masks.shape, 1), np.float32)
    return Real(name, Arrays(images, masks, None, [{}] * len(masks), (), NAMES))


def table(generated):
    rows = compare(generated, real("test", maps(40, 0)), real("train", maps(60, 1))).rows
    return {(row["structure"], row["measure"]): row for row in rows}


KEPT = ("all", "keeps the rules of real maps, % of maps")


def test_maps_of_the_same_kind_lie_at_the_floor():
    rows = table(maps(50, 2))
    size = rows["cavity", "size, % of the map"]
    expected = 100 * (maps(50, 2) == 1).mean(axis=(1, 2))
    assert size["generated"] == pytest.approx(expected.mean())
    assert size["generated_std"] == pytest.approx(expected.std(ddof=1))
    assert size["distance"] < 1.5 and size["floor"] < 1.5
    assert rows["cavity", "border with wall, %"]["generated"] == 100
    assert rows[KEPT] == {"structure": KEPT[0], "measure": KEPT[1]} | dict.fromkeys(
        ("generated", "real", "other real"), 100
    )


def test_a_second_piece_a_gap_in_the_wall_and_a_missing_structure_break_a_rule():
    wrong = maps(8, 2)
    wrong[0, 0, 0] = 1  # a second cavity
    wrong[1][:8][wrong[1][:8] == 2] = 0  # half of the wall
    wrong[2][wrong[2] == 1] = 2  # no cavity
    rows = table(wrong)
    assert rows[KEPT]["generated"] == pytest.approx(100 * 5 / 8) and rows[KEPT]["real"] == 100
    assert rows["cavity", "in one piece, % of maps"]["generated"] == pytest.approx(75)
    assert rows["cavity", "there, % of maps"]["generated"] == pytest.approx(87.5)
    grown = table(np.where(maps(50, 2) == 2, 1, maps(50, 2)))["wall", "compactness"]
    assert grown["generated"] is None and grown["distance"] is None and grown["floor"] < 0.1


def test_sizes_are_compared_within_classes():
    small, large = maps(40, 3), np.zeros((40, 16, 16), np.uint8)
    large[:, 4:12, 4:12] = 1
    masks, classes = np.concatenate([small, large]), np.repeat([0, 1], 40).astype(np.int32)

    def of(name, masks, classes):
        return Real(name, dataclasses.replace(real(name, masks).arrays, labels=classes))

    reference, floor = of("test", masks, classes), of("train", masks, classes)
    for labels, apart in ((classes, False), (1 - classes, True)):
        rows = compare(masks, reference, floor, labels).rows
        row = next(each for each in rows if each["measure"].startswith("size within its class"))
        between = 100 * ((large == 1).mean() - (small == 1).mean())
        assert row["structure"] == "cavity" and row["floor"] == 0
        assert row["distance"] == pytest.approx(between if apart else 0)


def test_a_folder_of_masks_that_were_given_has_no_structures(tmp_path):
    sidecar = {"format": FORMAT, "settings": {"raw": False}, "condition": {"mask_labels": NAMES}}

    def write(**fields):
        (tmp_path / "samples.json").write_text(json.dumps({**sidecar, **fields}))

    np.savez(tmp_path / "samples.npz", images=np.zeros((5, 16, 16, 1)), masks=maps(5, 2))
    reference, floor = real("test", maps(40, 0)), real("train", maps(60, 1))
    write(generated=["images"])
    assert of_samples(tmp_path, reference, floor) is None
    write(generated=["images", "masks"])
    made = of_samples(tmp_path, reference, floor)
    assert made.rows[-1]["generated"] == 100
    assert "5 generated, 40 real (test), 60 other real (train)" in made.caption
    write(generated=["images", "masks"], condition={"mask_labels": ["background", "lesion"]})
    with pytest.raises(ValueError, match=r"of background, lesion, the real ones .* sample a run"):
        of_samples(tmp_path, reference, floor)

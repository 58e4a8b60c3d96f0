"""What pictures and volumes hold, pixel by pixel."""

import numpy as np
import pytest
from PIL import Image

from motfm_jax.io import pictures, tiles
from motfm_jax.io.tiles import View


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_a_grey_tile_maps_the_window_to_black_and_white_and_clips_beyond():
    image = np.array([[-5.0, 0.0], [50.0, 300.0]])[..., None]
    tile = tiles.image_tile(image, View(0.0, 100.0))
    assert tile.dtype == np.uint8 and tile.shape == (2, 2, 3)
    np.testing.assert_array_equal(tile[..., 0], [[0, 0], [128, 255]])
    np.testing.assert_array_equal(tile[..., 1:], tile[..., :2])


def test_one_window_serves_all_images_and_a_constant_one_does_not_divide_by_zero():
    stack = np.stack([np.zeros((4, 4, 1)), np.full((4, 4, 1), 10.0)])
    assert tiles.shared_view(stack) == (0.0, 10.0, ())
    assert tiles.image_tile(stack[0], tiles.shared_view(stack[:1])).max() == 0


def test_masks_take_their_colours_and_overlays_leave_the_background_grey():
    mask = np.array([[0, 1], [2, 9]], np.uint8)
    tile = tiles.mask_tile(mask)
    np.testing.assert_array_equal(tile[0, 0], 0)
    np.testing.assert_array_equal(tile[0, 1], tiles.MASK_COLOURS[1])
    # The colours repeat from label 8 on, but never the background's.
    np.testing.assert_array_equal(tile[1, 1], tiles.MASK_COLOURS[2])
    overlay = tiles.overlay_tile(np.full((2, 2, 1), 0.5), mask, View(0.0, 1.0))
    assert overlay[0, 0].tolist() == [128, 128, 128]
    np.testing.assert_allclose(overlay[0, 1], 0.65 * 128.0 + 0.35 * tiles.MASK_COLOURS[1], atol=1)


def test_three_channels_are_colours_unless_they_have_other_names():
    image = np.array([[[0.0, 5.0, 10.0]]])
    for names in ((), ("red", "green", "blue"), ("R", "G", "B")):
        tile = tiles.image_tile(image, View(0, 10, names))
        assert tile.tolist() == [[[0, 128, 255]]]
    assert tiles.image_tile(image, View(0, 10, ("T1", "T2", "FLAIR"))).shape == (1, 5, 3)


def test_colours_have_one_black_and_one_white_so_that_hues_are_kept():
    view = View((0, 0, 0), (250, 180, 60), ("red", "green", "blue"))
    assert tiles.image_tile(np.array([[[125.0, 90.0, 30.0]]]), view).tolist() == [[[128, 92, 31]]]
    assert view.caption(3).startswith("colours 0 to 250")


def test_other_channels_are_side_by_side_each_in_its_window():
    stack = np.zeros((2, 4, 4, 2))
    stack[:, 2:, :, 0], stack[:, :, 2:, 1] = 1000, 7
    view = tiles.shared_view(stack, ("T1w", "FLAIR"))
    assert (view.low, view.high) == ((0, 0), (1000, 7))
    tile = tiles.image_tile(stack[0], view)
    assert tile.shape == (4, 9, 3)
    assert (tile[2:, :4] == 255).all() and (tile[:2, :4] == 0).all()
    assert (tile[:, 7:] == 255).all() and (tile[:, 5:7] == 0).all()
    assert view.caption(2).endswith("images: T1w 0 to 1000, FLAIR 0 to 7")
    overlay = tiles.overlay_tile(stack[0], np.eye(4, dtype=np.uint8), view)
    changed = (overlay != tile).any(axis=-1)
    np.testing.assert_array_equal(changed[:, :4], np.eye(4))
    np.testing.assert_array_equal(changed[:, 5:], np.eye(4))


def test_three_planes_show_the_middle_with_front_and_top_upwards():
    volume = np.zeros((4, 6, 8), np.float32)
    volume[1, 5, 4] = 1.0  # right index 1, frontmost, in the axial plane k = 4
    volume[0, 3, 7] = 2.0  # topmost, in the coronal plane j = 3
    volume[2, 0, 0] = 3.0  # rearmost and lowest, in the sagittal plane i = 2
    planes = tiles.three_planes(volume)
    assert planes.shape == (8, 4 + 4 + 6)
    axial, coronal, sagittal = planes[:, :4], planes[:, 4:8], planes[:, 8:]
    assert np.isnan(axial[0]).all() and np.isnan(axial[7]).all(), "6 rows centred in 8"
    assert axial[1, 1] == 1.0 and coronal[0, 0] == 2.0 and sagittal[7, 0] == 3.0
    labels = tiles.three_planes(volume.astype(np.uint8))
    assert labels.dtype == np.uint8 and (labels[0, :4] == 0).all()


def test_a_grid_places_tiles_in_rows_and_columns_and_enlarges_small_ones(tmp_path):
    colours = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)
    tiles = [np.broadcast_to(colour, (16, 16, 3)) for colour in colours]
    pictures.write_grid(tmp_path / "deep" / "grid.png", [tiles[:2], tiles[2:]])
    page = pixels(tmp_path / "deep" / "grid.png")
    side = pictures.SMALLEST_TILE  # 7 x 16
    assert page.shape == (2 * side + 3 * pictures.GAP, 2 * side + 3 * pictures.GAP, 3)
    middle, step = pictures.GAP + side // 2, side + pictures.GAP
    assert page[middle, middle].tolist() == [200, 0, 0]
    assert page[middle, middle + step].tolist() == [0, 200, 0]
    assert page[middle + step, middle].tolist() == [0, 0, 200]
    assert page[middle + step, middle + step].tolist() == [255, 255, 255], "a shorter row"
    assert [path.name for path in tmp_path.rglob("*.*")] == ["grid.png"], "no draft is left"


def test_titles_and_captions_are_drawn_in_room_of_their_own(tmp_path):
    tile = np.zeros((112, 112, 3), np.uint8)
    pictures.write_grid(tmp_path / "plain.png", [[tile, tile]])
    pictures.write_grid(
        tmp_path / "titled.png",
        [[tile, tile]],
        row_titles=["row"],
        column_titles=["a", "b"],
        caption="word " * 40,
    )
    plain, titled = pixels(tmp_path / "plain.png"), pixels(tmp_path / "titled.png")
    assert titled.shape[0] > plain.shape[0] and titled.shape[1] > plain.shape[1]
    assert (titled == 0).all(-1).sum() > (plain == 0).all(-1).sum(), "black text beside black tiles"
    assert titled[titled.shape[0] - 40 :].min() < 100, "the caption reaches the last lines"


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("size", [(16, 16), (8, 8, 8)])
def test_samples_and_trajectories_become_pictures_of_varied_grey(tmp_path, size, channels):
    rng = np.random.default_rng(0)
    stack, masks = rng.normal(size=(5, *size, channels)), rng.integers(0, 3, (5, *size))
    pictures.write_samples(
        tmp_path / "a.png", stack, masks=masks, titles=list("abcde"), caption="synthetic"
    )
    pictures.write_trajectory(tmp_path / "b.png", np.stack([stack, stack / 2, stack]), columns=2)
    page = pixels(tmp_path / "a.png")
    assert len(np.unique(page[..., 0])) > 50
    for colour in tiles.MASK_COLOURS[1:3]:
        assert (page == colour).all(-1).any()
    wide = (2 if len(size) == 2 else 6) * (2 if channels == 2 else 1)
    assert pixels(tmp_path / "b.png").shape[1] >= wide * pictures.SMALLEST_TILE


def test_the_loss_curve_is_a_picture(tmp_path):
    pictures.write_curves(
        tmp_path / "loss.png",
        {"train": ([1, 2, 3], [1.0, 0.5, 0.2])},
        xlabel="step",
        ylabel="loss",
        log=True,
    )
    assert len(np.unique(pixels(tmp_path / "loss.png").reshape(-1, 3), axis=0)) > 2

"""Every format against files that another library wrote, with known arrays."""

import sys

import nibabel
import numpy as np
import pytest
from PIL import Image

from motfm_jax.data import formats
from motfm_jax.data.slices import PLANES, Cut, Stack

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
DEEP_COLOUR = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
LABELS = np.array([[0, 1, 2], [2, 2, 0]], np.uint8)
PALETTE = [0, 0, 0, 255, 0, 0, 0, 255, 0]


def save(path, array, mode=None, **options):
    Image.fromarray(array, mode).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff", "bmp"])
def test_pictures_keep_their_grey_values_and_colours(suffix, tmp_path):
    grey = formats.read(save(tmp_path / f"grey.{suffix}", GREY))
    np.testing.assert_array_equal(grey.array, GREY[..., None])
    colour = formats.read(save(tmp_path / f"colour.{suffix}", COLOUR))
    np.testing.assert_array_equal(colour.array, COLOUR)
    assert colour.channels == ("red", "green", "blue") and grey.channels == ()
    assert grey.affine is None and grey.spacing_mm is None


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_of_grey_stay(suffix, tmp_path):
    scan = formats.read(save(tmp_path / f"deep.{suffix}", DEEP))
    np.testing.assert_array_equal(scan.array[..., 0], DEEP)
    assert scan.array.dtype == np.uint16


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_of_colour_stay(suffix, tmp_path):
    """Pillow reads 8 of them without a word."""
    itk = pytest.importorskip("SimpleITK")
    path = tmp_path / f"deep.{suffix}"
    itk.WriteImage(itk.GetImageFromArray(DEEP_COLOUR, isVector=True), str(path))
    scan = formats.read(path)
    np.testing.assert_array_equal(scan.array, DEEP_COLOUR)
    assert scan.channels == ("red", "green", "blue")


def test_a_jpeg_is_what_pillow_decodes_and_lies_as_its_camera_says(tmp_path):
    path = save(tmp_path / "a.jpg", COLOUR)
    np.testing.assert_array_equal(formats.read(path).array, np.asarray(Image.open(path)))
    exif = Image.Exif()
    exif[274] = 6  # turn right by 90 degrees
    turned = save(tmp_path / "b.jpeg", COLOUR, exif=exif)
    np.testing.assert_array_equal(
        formats.read(turned).array, np.rot90(np.asarray(Image.open(turned)), -1)
    )


def test_a_palette_is_colours_in_an_image_and_indices_in_a_mask(tmp_path):
    image = Image.fromarray(LABELS, "P")
    image.putpalette(PALETTE)
    image.save(tmp_path / "p.png")
    colours = np.array(PALETTE).reshape(-1, 3)
    np.testing.assert_array_equal(formats.read(tmp_path / "p.png").array, colours[LABELS])
    mask = formats.read(tmp_path / "p.png", as_mask=True)
    np.testing.assert_array_equal(mask.array[..., 0], LABELS)


@pytest.mark.parametrize("values", [GREY, COLOUR], ids=["grey", "colour"])
def test_opaque_alpha_is_dropped_and_transparency_refused(values, tmp_path):
    values = values.reshape(5, 7, -1)
    alpha = np.full((5, 7, 1), 255, np.uint8)
    path = save(tmp_path / "a.png", np.concatenate([values, alpha], -1))
    np.testing.assert_array_equal(formats.read(path).array, values)
    alpha[2, 3] = 254
    save(path, np.concatenate([values, alpha], -1))
    with pytest.raises(ValueError, match=r"a\.png: a transparent alpha channel"):
        formats.read(path)


def test_where_white_is_zero_a_deep_tiff_is_turned(tmp_path):
    path = save(tmp_path / "a.tif", DEEP, tiffinfo={262: 0})
    assert Image.open(path).tag_v2[262] == 0
    np.testing.assert_array_equal(formats.read(path).array[..., 0], 65535 - DEEP)


def test_the_pages_of_a_tiff_are_a_volume(tmp_path):
    pages = [Image.fromarray(GREY + np.uint8(n)) for n in range(6)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    scan = formats.read(tmp_path / "a.tif")
    assert scan.shape == (5, 7, 6) and scan.affine is None
    np.testing.assert_array_equal(scan.array[:, :, 4, 0], GREY + np.uint8(4))


def test_a_mask_in_colour_needs_equal_channels(tmp_path):
    path = save(tmp_path / "a.png", np.repeat(LABELS[..., None], 3, axis=-1))
    np.testing.assert_array_equal(formats.read(path, as_mask=True).array[..., 0], LABELS)
    with pytest.raises(ValueError, match="a mask of 3 channels"):
        formats.read(save(path, COLOUR), as_mask=True)


def test_a_jpeg_mask_is_black_and_white_or_refused(tmp_path):
    disc = np.hypot(*np.mgrid[-20:20, -20:20]) < 12
    path = save(tmp_path / "a.jpg", np.uint8(255 * disc), quality=75)
    assert len(np.unique(np.asarray(Image.open(path)))) > 2
    np.testing.assert_array_equal(formats.read(path, as_mask=True).array[..., 0], 255 * disc)
    for labels in (2 * disc, 128 * disc):
        with pytest.raises(ValueError, match="a JPEG mask that is not black and white"):
            formats.read(save(path, np.uint8(labels), quality=95), as_mask=True)


def test_numpy_arrays_are_pictures_or_volumes_by_their_axes(tmp_path):
    for shape, space in {
        (5, 7): (5, 7),
        (5, 7, 3): (5, 7),
        (5, 7, 6): (5, 7, 6),
        (5, 7, 6, 2): (5, 7, 6),
    }.items():
        array = RNG.normal(size=shape)
        np.save(tmp_path / "a.npy", array)
        scan = formats.read(tmp_path / "a.npy")
        assert scan.shape == space
        np.testing.assert_array_equal(scan.array.reshape(shape), array)
    np.save(tmp_path / "a.npy", np.zeros((3, 5, 7)))
    with pytest.raises(ValueError, match=r"a\.npy: shape \(3, 5, 7\): channels first"):
        formats.read(tmp_path / "a.npy")


def test_an_npz_may_tell_where_it_lies(tmp_path):
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    np.savez(tmp_path / "a.npz", image=np.ones((5, 7, 6)), mask=np.zeros((5, 7, 6)), affine=affine)
    scan = formats.read(tmp_path / "a.npz")
    assert scan.spacing_mm == (2, 3, 4) and scan.array.min() == 1
    assert formats.read(tmp_path / "a.npz", as_mask=True).array.max() == 0
    np.savez(tmp_path / "b.npz", one=np.ones((5, 7)), two=np.ones((5, 7)))
    with pytest.raises(ValueError, match=r"b\.npz: arrays one, two; call one of them 'image'"):
        formats.read(tmp_path / "b.npz")


def test_an_array_of_objects_is_refused_without_running_it(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npy: cannot be read"):
        formats.read(tmp_path / "a.npy")


def test_nifti_volumes_keep_their_axes_and_single_planes_become_pictures(tmp_path):
    affine = np.diag([-1.0, 2.0, 3.0, 1.0])
    volume = RNG.normal(size=(4, 5, 6)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / "v.nii.gz")
    scan = formats.read(tmp_path / "v.nii.gz")
    np.testing.assert_array_equal(scan.array[..., 0], volume)
    np.testing.assert_array_equal(scan.affine, affine)
    assert scan.spacing_mm == (1, 2, 3)
    nibabel.save(nibabel.Nifti1Image(volume[:, :, :1], affine), tmp_path / "p.nii")
    plane = formats.read(tmp_path / "p.nii")
    np.testing.assert_array_equal(plane.array[..., 0], volume[:, :, 0].T)
    assert plane.spacing_mm == (2, 1)
    np.testing.assert_array_equal(plane.affine, affine[:, [1, 0, 2, 3]])


@pytest.mark.parametrize("axes", ["RAS", "LAS", "RPS", "LPS", "SLA"])
@pytest.mark.parametrize("plane", PLANES)
def test_single_planes_in_any_orientation_are_slices_of_their_volume(plane, axes, tmp_path):
    affine = np.array([[1, 0, 0, -7], [0, 2, 0.1, -9], [0, -0.1, 3, 5], [0, 0, 0, 1]])
    volume = RNG.normal(size=(4, 5, 6, 1)).astype(np.float32)
    expected = Cut(plane).stack(Stack(volume, None, affine, (1.0, 2.0, 3.0), 1)).cut(2)
    place = [slice(None)] * 3
    place[PLANES[plane][2]] = slice(2, 3)
    single = nibabel.Nifti1Image(volume[..., 0], affine).slicer[tuple(place)]
    turned = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(axes)
    )
    nibabel.save(single.as_reoriented(turned), tmp_path / "p.nii")
    found = formats.read(tmp_path / "p.nii")
    np.testing.assert_array_equal(found.array, expected.image)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)


@pytest.mark.parametrize("suffix", ["nrrd", "mha", "mhd"])
@pytest.mark.parametrize("channels", [1, 2])
def test_itk_formats_have_the_place_that_nifti_gives_them(suffix, channels, tmp_path):
    itk = pytest.importorskip("SimpleITK")
    array = RNG.integers(0, 99, (6, 5, 4, channels), dtype=np.int16)
    image = itk.GetImageFromArray(array if channels > 1 else array[..., 0], isVector=channels > 1)
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((10.0, 20.0, 30.0))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    itk.WriteImage(image, str(tmp_path / f"a.{suffix}"))
    scan = formats.read(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(scan.array, array.transpose(2, 1, 0, 3))
    x, y, z = image.TransformIndexToPhysicalPoint((3, 4, 5))
    np.testing.assert_allclose(scan.affine @ [3, 4, 5, 1], [-x, -y, z, 1])
    assert scan.spacing_mm == (1, 2, 3)


def test_a_missing_package_is_named_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    (tmp_path / "a.nrrd").touch()
    with pytest.raises(ValueError, match=r"SimpleITK, .* pip install 'motfm_jax\[itk\]'"):
        formats.read(tmp_path / "a.nrrd")


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
@pytest.mark.parametrize("content", [b"", bytes(range(256)) * 8], ids=["empty", "noise"])
def test_foreign_bytes_are_refused_by_name(suffix, content, tmp_path):
    if suffix in formats.ITK:
        pytest.importorskip("SimpleITK")
    if suffix in formats.dicom.SUFFIXES:
        pytest.importorskip("pydicom")
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\{suffix}: "):
        formats.read(path)


def test_a_truncated_picture_is_refused(tmp_path):
    path = save(tmp_path / "a.png", COLOUR)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"a\.png: cannot be read as an image"):
        formats.read(path)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.png", b"broken", r"a\.png: cannot be read as an image"),
        ("a.xyz", b"unknown", r"a\.xyz: unknown type of image; use one of \.nii\.gz"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        formats.read(tmp_path / name)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motfm_jax.metrics.similarity import ms_ssim, psnr, snr, ssim


def _close(value, expected, rtol=1e-4):
    np.testing.assert_allclose(value, np.atleast_1d(expected), rtol=rtol)


def _images(golden, name="images") -> tuple[np.ndarray, np.ndarray]:
    arrays = golden(name)
    return arrays["images"], arrays["references"]


def test_planes_agree_with_scikit_image_monai_and_torchmetrics(golden):
    pair, expected = _images(golden), golden("images")
    _close(psnr(*pair, 255), expected["psnr_skimage"], rtol=1e-6)
    _close(snr(*pair, black=0), expected["snr_torchmetrics"], rtol=1e-6)
    _close(ssim(*pair, 255), expected["ssim_skimage"], rtol=1e-6)
    _close(ssim(*pair, 255), expected["ssim_monai"])
    _close(ms_ssim(*pair, 255), expected["ms_ssim_monai"])


def test_volumes_agree_with_monai_one_number_a_pair(golden):
    pair, expected = _images(golden, "volumes"), golden("volumes")
    _close(ssim(*pair, 255), expected["ssim_monai"])
    _close(ms_ssim(*pair, 255), expected["ms_ssim_monai"])


def test_equal_images_are_perfectly_similar(golden):
    images = _images(golden)[1]
    assert psnr(images, images, 255).tolist() == snr(images, images, 0).tolist() == [np.inf]
    _close(ssim(images, images, 255), 1, rtol=1e-12)
    _close(ms_ssim(images, images, 255, weights=(0.5, 0.5)), 1, rtol=1e-12)


@given(st.floats(0.01, 100), st.integers(0, 100))
def test_a_scale_shared_by_images_and_data_range_changes_nothing(scale, seed):
    x, y = np.random.default_rng(seed).uniform(size=(2, 2, 24, 22, 1))
    for measure in (psnr, ssim, lambda *pair: ms_ssim(*pair, weights=(0.4, 0.6))):
        _close(measure(scale * x, scale * y, scale), measure(x, y, 1.0), rtol=1e-6)
    _close(snr(scale * x, scale * y, black=0.0), snr(x, y, black=0.0), rtol=1e-6)


def test_psnr_and_snr_of_a_constant_error_are_the_closed_form():
    clean = np.full((1, 4, 4, 1), 0.5)
    _close(psnr(clean + 0.1, clean, 1.0), 20, rtol=1e-9)
    _close(psnr(clean + 0.1, clean, 10.0), 40, rtol=1e-9)
    _close(snr(clean + 0.05, clean, black=0.0), 20, rtol=1e-9)
    _close(snr(2 * clean - 0.9, 2 * clean - 1, black=-1.0), 20, rtol=1e-9)


def test_ssim_of_constant_images_is_the_luminance_term():
    x, y = np.full((1, 12, 12, 1), 0.2), np.full((1, 12, 12, 1), 0.6)
    _close(ssim(x, y, 1.0), (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4), rtol=1e-9)


def test_similarity_is_symmetric_and_falls_with_noise(golden):
    noisy, clean = (images.astype(float) for images in _images(golden, "volumes"))
    for measure in (psnr, ssim, ms_ssim):
        _close(measure(noisy, clean, 255), measure(clean, noisy, 255), rtol=1e-9)
        less = measure(clean + (noisy - clean) / 2, clean, 255)
        assert (less > measure(noisy, clean, 255)).all()


def test_channels_are_averaged(golden):
    x, y = _images(golden)
    both = ssim(np.concatenate([x, y], -1), np.concatenate([y, y], -1), 255)
    _close(both, (ssim(x, y, 255) + 1) / 2, rtol=1e-9)


def test_opposite_images_have_a_multi_scale_similarity_of_zero():
    board = np.indices((12, 12)).sum(axis=0)[None, ..., None] // 2 % 2.0
    assert ssim(board, 1 - board, 1.0)[0] < 0
    assert ms_ssim(board, 1 - board, 1.0, weights=(1.0,), num_taps=5)[0] == 0


def test_sides_that_fit_no_window_are_refused_with_the_limit():
    smallest = np.zeros((1, 20, 20, 20, 1)), np.zeros((1, 176, 176, 1))
    for images in smallest:
        _close(ms_ssim(images, images, 1.0), 1, rtol=1e-9)
        with pytest.raises(ValueError, match=f"sides of {images.shape[1]} and more"):
            ms_ssim(images[:, 1:], images[:, 1:], 1.0)
    with pytest.raises(ValueError, match="sides of 11 and more"):
        ssim(np.zeros((1, 10, 40, 1)), np.zeros((1, 10, 40, 1)), 1.0)


@pytest.mark.parametrize(
    "images, references, data_range, message",
    [
        (np.zeros((1, 12, 12, 1)), np.zeros((2, 12, 12, 1)), 1.0, "pairs need equal shapes"),
        (np.zeros((12, 12, 1)), np.zeros((12, 12, 1)), 1.0, "needed [B, H, W, C]"),
        (
            np.full((1, 12, 12, 1), np.nan),
            np.zeros((1, 12, 12, 1)),
            1.0,
            "images (1, 12, 12, 1): 144",
        ),
        (np.zeros((1, 12, 12, 1)), np.zeros((1, 12, 12, 1)), 0.0, "data range 0.0"),
        (np.zeros((1, 12, 12, 1)), np.linspace(-1, 1, 144).reshape(1, 12, 12, 1), 1.0, "-1 to 1"),
    ],
)
def test_pairs_that_cannot_be_compared_are_refused(images, references, data_range, message):
    for measure in (psnr, ssim, ms_ssim):
        with pytest.raises(ValueError) as error:
            measure(images, references, data_range)
        assert message in str(error.value)


def test_a_black_image_has_no_signal_and_even_taps_no_centre():
    images = np.ones((2, 12, 12, 1))
    with pytest.raises(ValueError, match="clean image 1 is -1 throughout"):
        snr(images, np.stack([images[0], -images[0]]), black=-1.0)
    with pytest.raises(ValueError, match="odd number"):
        ssim(images, images, 1.0, num_taps=4)

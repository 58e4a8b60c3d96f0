import numpy as np
import pytest

from motfm_jax.data.phantom.echo import POINT_SPREAD
from motfm_jax.data.phantom.texture import rician, smooth_field, speckle


@pytest.mark.parametrize("point_spread", [POINT_SPREAD, (1.5, 2.5)])
def test_envelope_of_homogeneous_tissue_is_rayleigh(point_spread):
    tissue = np.full((600, 600), 3.0, np.float32)
    envelope = speckle(np.random.default_rng(0), tissue, point_spread)
    assert envelope.std() / envelope.mean() == pytest.approx(np.sqrt(4 / np.pi - 1), abs=0.01)
    assert np.mean(envelope**2) == pytest.approx(9.0, rel=0.03)
    below_median = np.mean(envelope < 3.0 * np.sqrt(np.log(2)))  # of a Rayleigh distribution
    assert below_median == pytest.approx(0.5, abs=0.01)


def test_speckle_is_as_wide_as_its_point_spread():
    envelope = speckle(np.random.default_rng(1), np.ones((400, 400), np.float32), (0.7, 2.5))
    down = np.corrcoef(envelope[:-2].ravel(), envelope[2:].ravel())[0, 1]
    across = np.corrcoef(envelope[:, :-2].ravel(), envelope[:, 2:].ravel())[0, 1]
    assert down < 0.1 and across > 0.5


def test_smooth_field_is_one_function_on_every_grid():
    coarse = (np.arange(0, 40, 2.0), np.arange(0, 30, 2.0), np.arange(0, 20, 2.0))
    fine = (np.arange(0, 40, 1.0), np.arange(0, 30, 1.0), np.arange(0, 20, 1.0))
    one = smooth_field(np.random.default_rng(3), coarse, 9.0)
    two = smooth_field(np.random.default_rng(3), fine, 9.0)
    np.testing.assert_allclose(one, two[::2, ::2, ::2], atol=1e-4)


@pytest.mark.parametrize("wavelength", [8.0, 16.0])
def test_smooth_field_has_unit_variance_and_its_wavelength(wavelength):
    line = np.arange(0, 4000, 0.5)
    field = smooth_field(np.random.default_rng(0), (line,), wavelength, 64)
    assert field.std() == pytest.approx(1, abs=0.25)
    crossings = np.sum(np.diff(np.sign(field)) != 0)
    assert 2 * 4000 / crossings == pytest.approx(wavelength, rel=0.1)


def test_rician_noise_lifts_the_black_and_hardly_moves_the_bright():
    image = np.stack([np.zeros(200_000), np.full(200_000, 100.0)]).astype(np.float32)
    noisy = rician(np.random.default_rng(0), image, 5.0)
    assert noisy[0].mean() == pytest.approx(5 * np.sqrt(np.pi / 2), rel=0.01)
    assert noisy[1].mean() == pytest.approx(100 + 5**2 / 200, abs=0.05)
    assert noisy[1].std() == pytest.approx(5, rel=0.02)

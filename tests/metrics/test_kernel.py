import numpy as np
import pytest

from motfm_jax.metrics import kernel
from motfm_jax.metrics.kernel import cmmd, cubic_mmd, gaussian_mmd, kid, linear_mmd, median_distance


def _sets(golden) -> tuple[np.ndarray, np.ndarray]:
    arrays = golden("features")
    return arrays["generated"].astype(float), arrays["real"].astype(float)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(params=[1024, 7], ids=["one block", "many blocks"])
def _blocks(request, monkeypatch):
    monkeypatch.setattr(kernel, "ROWS", request.param)


@pytest.mark.usefixtures("_blocks")
def test_kid_agrees_with_torchmetrics_and_torch_fidelity(golden):
    result = kid(*_sets(golden), seed=0, num_subsets=3)
    np.testing.assert_allclose(result.mean, golden("features")["kid_torchmetrics"], rtol=1e-6)
    np.testing.assert_allclose(result.mean, golden("features")["kid_torch_fidelity"], rtol=1e-6)
    assert result.std < 1e-9  # every subset is the whole set
    np.testing.assert_allclose(cubic_mmd(*_sets(golden)), result.mean, rtol=1e-9)


@pytest.mark.usefixtures("_blocks")
def test_cmmd_agrees_with_the_biased_estimate_of_torch_fidelity(golden):
    expected = golden("features")["cmmd_torch_fidelity"]
    np.testing.assert_allclose(cmmd(*map(_unit, _sets(golden))), expected, rtol=1e-6)


@pytest.mark.usefixtures("_blocks")
def test_gaussian_mmd_agrees_with_torch_fidelity(golden):
    expected = golden("features")["gaussian_mmd_torch_fidelity"]
    np.testing.assert_allclose(gaussian_mmd(*_sets(golden), bandwidth=8.0), expected, rtol=1e-6)


def test_linear_mmd_agrees_with_monai_on_volumes(golden):
    arrays = golden("volumes")
    value = linear_mmd(arrays["images"], list(arrays["references"]))
    np.testing.assert_allclose(value, arrays["linear_mmd_monai"], rtol=1e-6)


def test_kid_of_small_sets_reduces_the_subset_and_tells(golden):
    generated, real = _sets(golden)
    result = kid(generated[:25], real, seed=0, num_subsets=4)
    assert (result.subset_size, result.num_subsets) == (25, 4)
    assert kid(generated, real, seed=0, num_subsets=4, subset_size=20).subset_size == 20


def test_kid_depends_on_the_seed_only_through_its_subsets(golden):
    generated, real = _sets(golden)
    first, again, other = (
        kid(generated, real, seed, num_subsets=5, subset_size=20) for seed in (0, 0, 1)
    )
    assert first == again
    assert first.mean != other.mean
    assert first.std > 0


def test_kid_of_one_distribution_is_zero_on_average():
    random = np.random.default_rng(0)
    values = [kid(*random.normal(size=(2, 30, 5)), seed=0, num_subsets=1).mean for _ in range(200)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(200)
    assert min(values) < 0 < max(values)


def test_cmmd_of_a_set_with_itself_is_zero_in_any_order(golden):
    real = _unit(_sets(golden)[1])
    assert abs(cmmd(real, real[::-1])) < 1e-9


def test_cmmd_of_two_points_is_the_closed_form():
    value = cmmd(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 1.0]]))
    np.testing.assert_allclose(value, 1000 * (2 - 2 * np.exp(-2 / 200)), rtol=1e-9)


def test_gaussian_mmd_is_the_closed_form_of_three_points():
    # k(x, x') = exp(-4/2), all k(y, y') = 1, all k(x, y) = exp(-1/2)
    value = gaussian_mmd(np.array([[-1.0], [1.0]]), np.zeros((3, 1)), bandwidth=1.0)
    np.testing.assert_allclose(value, np.exp(-2) + 1 - 2 * np.exp(-0.5), rtol=1e-12)


def test_median_distance_scales_with_the_features_and_thins_out_large_sets(golden):
    assert median_distance(np.array([[0.0], [1.0], [5.0]]), seed=0) == 4
    real = _sets(golden)[1]
    whole = median_distance(real, seed=0)
    np.testing.assert_allclose(median_distance(3 * real, seed=0), 3 * whole, rtol=1e-12)
    thinned = median_distance(real, seed=0, most=30)
    assert thinned != whole
    assert abs(thinned / whole - 1) < 0.2


def test_linear_mmd_sees_mean_images_only():
    random = np.random.default_rng(0)
    shape, noise = (400, 3, 4, 2, 1), random.normal(size=(400, 3, 4, 2, 1))
    mean = random.normal(size=shape[1:])
    assert abs(linear_mmd(mean + noise, mean + 5 * random.normal(size=shape))) < 0.5
    moved = linear_mmd(mean + noise, mean + 2 + random.normal(size=shape))
    np.testing.assert_allclose(moved, 24 * 2**2, rtol=0.05)


@pytest.mark.parametrize(
    "generated, real, message",
    [
        (np.zeros((1, 2)), np.zeros((5, 2)), "generated features (1, 2): this measure needs at"),
        (np.zeros((5, 2)), np.zeros((5, 3)), "2 and 3 features per image"),
        (
            np.zeros((5, 2)),
            np.full((5, 2), np.inf),
            "real features (5, 2): 10 values are not finite",
        ),
        (np.zeros((5, 2, 1)), np.zeros((5, 2)), "needed [N, F]"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(generated, real, message):
    for measure in (
        lambda: kid(generated, real, seed=0),
        lambda: gaussian_mmd(generated, real, 1.0),
    ):
        with pytest.raises(ValueError) as error:
            measure()
        assert message in str(error.value)


def test_wrong_settings_are_refused(golden):
    sets = _sets(golden)
    with pytest.raises(ValueError, match="divide each by its L2 norm"):
        cmmd(*sets)
    with pytest.raises(ValueError, match="bandwidth 0"):
        gaussian_mmd(*sets, bandwidth=0.0)
    with pytest.raises(ValueError, match="0 subsets"):
        kid(*sets, seed=0, num_subsets=0)


def test_images_of_different_shapes_have_no_linear_mmd():
    images = np.zeros((3, 4, 4, 1))
    with pytest.raises(ValueError, match="differ in shape"):
        linear_mmd(images, np.zeros((3, 4, 5, 1)))
    with pytest.raises(ValueError, match="number 1 is"):
        linear_mmd([images[0], images[0, :2]], images)
    with pytest.raises(ValueError, match="needed at least 2, got 1"):
        linear_mmd(images[:1], images)
    with pytest.raises(ValueError, match=r"number 0 .* not finite"):
        linear_mmd(images, images * np.nan)

"""Speckle noise of given power: the degraded images that denoising starts from.

The paper adds "speckle noise with different power" to clean images and says no more. Here it is the
usual multiplicative model on the displayed (log-compressed) grey values u, black being 0,

    u -> u + sqrt(power) u n,    n standard normal, independent from pixel to pixel,

so that `power` is the noise's mean square over the image's: 10 log10(1 / power) is the degraded
image's signal-to-noise ratio in dB, until values are clipped. The paper's 11.87 dB are a power of
0.065.

Source: Yazdani et al. 2025, "Generalizability to Other Medical Imaging Tasks".
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Speckle:
    """Random speckle on one example; calling it is pure given the generator.

    Attributes:
      powers: the least and the greatest; each image's is drawn between them, see `draw_power`.
      bounds: the values of black and white, see `degrade`.
    """

    powers: tuple[float, float]
    bounds: tuple[float, float] = (-1.0, 1.0)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A clean image [*S, C] float32, scaled, to the same with speckle."""
        return degrade(image, draw_power(self.powers, rng), rng, self.bounds)


def degrade(
    image: np.ndarray,
    power: float,
    rng: np.random.Generator,
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> np.ndarray:
    """The image with speckle.

    What leaves the bounds is clipped to them (or to the image's own values, where those reach
    further), which takes a little off the noise in the brightest pixels. The generator's draws do
    not depend on the power: the same pattern grows with it.

    Args:
      image: [*S, C] float32, scaled.
      power: mean square of the noise over that of the image, 0 or more.
      rng: decides the noise.
      bounds: the values of black and white.

    Returns:
      [*S, C] float32.

    Raises:
      ValueError: a power below 0 or not finite.
    """
    if not 0 <= power < np.inf:
        raise ValueError(f"speckle power {power}: needs a finite number, 0 or more")
    black, white = bounds
    noise = rng.standard_normal(image.shape, np.float32)
    speckled = image + np.float32(np.sqrt(power)) * (image - np.float32(black)) * noise
    return np.clip(speckled, min(black, image.min()), max(white, image.max())).astype(np.float32)


def draw_power(powers: tuple[float, float], rng: np.random.Generator) -> float:
    """A power between two, uniform in decibels.

    Raises:
      ValueError: powers that are not 0 < least <= greatest.
    """
    least, greatest = powers
    if not 0 < least <= greatest < np.inf:
        raise ValueError(
            f"speckle powers ({least}, {greatest}): give the least and the greatest, both above 0"
        )
    return float(np.exp(rng.uniform(np.log(least), np.log(greatest))))

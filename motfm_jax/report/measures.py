"""What a report measures: columns of its tables, and what each one means."""

from collections.abc import Sequence
from typing import NamedTuple


class Measure(NamedTuple):
    """Columns.

    Attributes:
      title: of the columns, before the number of steps.
      name: of what is measured, see MEANINGS.
      less: whether less is better; None: neither.
      space: the ending of a feature space, such as "_resnet18_segment"; "" for none.
    """

    title: str
    name: str
    less: bool | None
    space: str = ""

    @property
    def key(self) -> str:
        """In the rows."""
        return self.name + self.space

    @property
    def meaning(self) -> str:
        """In one line; "" where none is written down."""
        return MEANINGS.get(self.name, "")


# The measures of table 1, of table 2, and of the tables beside them.
TABLE1 = (
    Measure("FID (64) ↓", "fid_64", True),
    Measure("FID (2048) ↓", "fid_2048", True),
    Measure("Frechet ↓", "frechet", True),
    Measure("SSIM ↑", "ssim", False),
    Measure("KID ↓", "kid", True),
    Measure("kernel ↓", "kernel", True),
    Measure("CMMD ↓", "cmmd", True),
    Measure("IS", "is", None),
    Measure("intensity W1 ↓", "density_w1", True),
    Measure("SSIM between", "ssim_between", None),
)
TABLE2 = (
    Measure("3D-FID ↓", "fid_3d", True),
    Measure("MS-SSIM ↑", "ms_ssim", False),
    Measure("SSIM ↑", "ssim", False),
    Measure("MMD (voxels) ↓", "linear_mmd", True),
    Measure("MMD (blocks) ↓", "pixel_mmd", True),
    Measure("intensity W1 ↓", "density_w1", True),
    Measure("MS-SSIM between", "ms_ssim_between", None),
)
# What is measured in features: in several spaces, each has columns of its own.
SPACED = ("frechet", "kernel", "precision", "recall", "density", "coverage")
QUALITY = (
    Measure("precision ↑", "precision", False),
    Measure("recall ↑", "recall", False),
    Measure("density", "density", None),
    Measure("coverage ↑", "coverage", False),
    Measure("spectrum, dB ↓", "spectrum_db", True),
    Measure("speckle contrast", "speckle_contrast", None),
    Measure("grain, pixels", "grain_width", None),
    Measure("diversity", "diversity", None),
    Measure("mask Dice ↑", "faithful_dice", False),
    Measure("mask boundary F1 ↑", "faithful_boundary_f1", False),
)
TIMES = (Measure("seconds", "seconds_per_image", None),)
COPIES = (
    Measure("closer, pixels", "share_closer", None),
    Measure("closer, features", "share_closer_features", None),
    Measure("third of next, pixels", "ratio_share", None),
    Measure("AUC, pixels", "auc", None),
    Measure("AUC, features", "auc_features", None),
)
# What the page says of each, where the pointer rests on it.
MEANINGS = {
    "fid_64": "Frechet distance of Inception-v3's first 64 pooled features",
    "fid_2048": "Frechet distance of Inception-v3's 2,048 last features: FID",
    "frechet": "Frechet distance of normal distributions fitted to real and generated features",
    "ssim": "structural similarity to the real image beside it, mean over images; 1: equal",
    "kid": "squared maximum mean discrepancy of Inception-v3's features, cubic kernel",
    "kernel": "squared maximum mean discrepancy of features, cubic kernel",
    "cmmd": "maximum mean discrepancy of CLIP's features, Gaussian kernel",
    "is": "Inception score of the generated images alone: sharp and diverse in ImageNet's classes",
    "density_w1": "Wasserstein-1 distance between the distributions of all pixels, in grey levels",
    "ssim_between": "structural similarity between generated images: less is more diverse",
    "fid_3d": "Frechet distance of a 3-D ResNet's features",
    "ms_ssim": "multi-scale structural similarity to the real volume beside it",
    "linear_mmd": "maximum mean discrepancy of intensities",
    "pixel_mmd": "maximum mean discrepancy of block means",
    "ms_ssim_between": "multi-scale similarity between generated volumes: less is more diverse",
    "precision": "share of generated images within the reach of real ones in feature space",
    "recall": "share of real images within the reach of generated ones in feature space",
    "density": "real images within whose reach a generated one lies, over the expected number",
    "coverage": "share of real images with a generated one within their reach",
    "spectrum_db": "distance of the mean radial power spectra, in decibels: blur and grain",
    "speckle_contrast": "local standard deviation over local mean, in windows of 5 pixels",
    "grain_width": "width of the autocorrelation of the texture, in pixels; blur widens it",
    "diversity": "mean root mean square distance of images of one mask and class, in grey levels",
    "faithful_dice": "Dice between the mask and a segmentation of the image made from it",
    "faithful_boundary_f1": "F1 of the borders of mask and segmentation, within one pixel",
    "seconds_per_image": "wall time of an image after compilation",
    "share_closer": "share nearer to a training image than 95% of held-out ones, by pixels",
    "share_closer_features": "share nearer to training than 95% of held-out ones, by features",
    "ratio_share": "share at less than a third of the distance to the next patient's image",
    "auc": "AUC of generated against held-out distances to training images, by pixels",
    "auc_features": "AUC of the same distances by features",
    # of table 3
    "accuracy": "share of test images whose class was found",
    "macro_f1": "F1 of each class, mean over classes",
    "dice": "twice the overlap of found and true structure over the sum of both, mean",
    "iou": "overlap of found and true structure over their union, mean",
    "hausdorff": "largest distance between the borders of found and true structure, mean",
    "asd": "mean distance from the border that was found to the true one",
    # of denoising
    "psnr": "peak signal to noise ratio, in decibels",
    "snr": "signal to noise ratio, in decibels",
}


def in_spaces(measures: Sequence[Measure], endings: Sequence[str]) -> list[Measure]:
    """Measures in features once for each space, see `evaluation.spaces`."""
    return [
        each._replace(space=ending, title=f"{each.title}{ending.replace('_', ' ')}")
        for each in measures
        for ending in (endings if each.name in SPACED else [""])
    ]

"""Writes NIfTI files."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from motfm_jax.io.folders import whole_file


def write_nifti(path: Path, image: np.ndarray, affine: Any = None, description: str = "") -> None:
    """Writes one image as NIfTI (.nii or .nii.gz).

    Args:
      path: the file.
      image: [*S, C]; C = 1 is dropped. A volume keeps its axis order; rows and columns of a frame
        are swapped back to the files' x-first order.
      affine: 4 x 4, array index (of S as in memory) to RAS+ millimetres; None for the identity.
      description: for the header, at most 79 characters.
    """
    affine = np.eye(4) if affine is None else np.array(affine, np.float64)
    image = np.asarray(image, np.float32)
    if image.ndim == 3:  # 2-D: rows are depth in memory
        image, affine = image.swapaxes(0, 1)[:, :, None], affine[:, [1, 0, 2, 3]]
    image = image[..., 0] if image.shape[-1] == 1 else image
    volume = nibabel.Nifti1Image(image, affine)
    volume.header["descrip"] = description.encode()[:79]
    volume.header.set_xyzt_units("mm")
    with whole_file(path) as draft:
        nibabel.save(volume, draft)

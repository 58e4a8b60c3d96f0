import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("evaluate", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def write(folder: Path) -> list[str]:
    masks = np.zeros((4, 2, 2), np.uint8)
    masks[:, 0, 0], masks[:, 1, 1] = 1, 2
    images = masks.astype(np.float32)
    images[3, 0, 0] = 9  # one cavity is brighter
    np.savez(folder / "samples.npz", images=images[..., None], masks=masks)
    names = ["background", "cavity", "wall"]
    (folder / "samples.json").write_text(json.dumps({"condition": {"mask_labels": names}}))
    return ["contrast", f"--samples={folder}", "--darker=cavity", "--brighter=wall"]


def test_contrast_names_labels_and_counts_images(main, tmp_path, capsys):
    main(write(tmp_path))
    assert capsys.readouterr().out == "cavity darker than wall in 75.0% of 4 images\n"


def test_a_label_or_folder_that_is_not_there(main, tmp_path):
    arguments = write(tmp_path)
    with pytest.raises(ValueError, match="no label 'lumen'; there are"):
        main([*arguments[:2], "--darker=lumen", arguments[3]])
    with pytest.raises(ValueError, match=r"no samples.json and samples.npz; sample there first"):
        main(["contrast", f"--samples={tmp_path / 'none'}", *arguments[2:]])

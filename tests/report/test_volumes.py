"""Volumes that turn in a page, in Chromium."""

import importlib.util
import io

import numpy as np
import pytest
from PIL import Image

from motfm_jax.io.tiles import View
from motfm_jax.report.volumes import viewer

VIEW = View(0.0, 100.0)


def test_without_the_viewer_s_package_or_volumes_there_is_no_part_of_the_page(monkeypatch):
    volume = np.zeros((4, 4, 4, 1), np.float32)
    assert viewer({}, VIEW, None) == ""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert viewer({"M": volume}, VIEW, None) == ""


@pytest.mark.slow
def test_a_volume_turns_and_another_takes_its_place(tmp_path, browser):
    pytest.importorskip("ipyniivue", reason="ipyniivue is not installed")
    far = np.abs(np.stack(np.meshgrid(*[np.linspace(-1, 1, 24)] * 3, indexing="ij"))).max(0)
    cube = 90.0 * (far < 0.5)[..., None]
    html = viewer({"</script> <cube>": cube, "empty": np.zeros_like(cube)}, VIEW, np.eye(4))
    (tmp_path / "page.html").write_text(f"<!doctype html><main>{html}</main>")
    page = browser.new_page(viewport={"width": 1000, "height": 600})
    asked, faults = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda fault: faults.append(str(fault)))
    page.goto((tmp_path / "page.html").as_uri())
    assert not page.locator("canvas").count()
    page.locator("summary").click()
    canvas = page.locator("#turning canvas[aria-label]")
    canvas.wait_for()

    def once(condition):
        """What is grey, in the planes and in the view that turns, once it meets the condition."""
        for _ in range(100):
            image = np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB"), int)
            grey = (image.min(-1) > 40) & (np.ptp(image, axis=-1) < 10)
            parts = np.split(grey, [3 * image.shape[1] // 4], axis=1)
            if condition(*parts):
                return parts
            page.wait_for_timeout(200)
        raise AssertionError("the picture stays as it is")

    planes, view = once(lambda planes, view: planes.mean() > 0.05 and view.mean() > 0.05)
    box = canvas.bounding_box()
    x, y = box["x"] + 0.9 * box["width"], box["y"] + 0.5 * box["height"]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y + 20, steps=3)
    page.mouse.up()
    same, _ = once(lambda planes, turned: (turned != view).mean() > 0.01)
    assert (same != planes).mean() < 0.01
    page.select_option("#volume", "empty")
    once(lambda planes, view: planes.mean() < 0.02 and view.mean() < 0.02)
    assert not faults and all(url.startswith(("file:", "blob:", "data:")) for url in asked)
    page.close()

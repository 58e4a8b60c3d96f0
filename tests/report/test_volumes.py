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
    canvas = page.locator("#turning canvas[aria-label]")
    canvas.wait_for()
    box = canvas.bounding_box()

    def bright():
        """Share of grey pixels, of the planes and of the view that turns."""
        image = np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB"), int)
        grey = (image.min(-1) > 40) & (np.ptp(image, axis=-1) < 10)
        return grey[:, : 3 * image.shape[1] // 4], grey[:, 3 * image.shape[1] // 4 :]

    planes, before = bright()
    assert planes.mean() > 0.05 and before.mean() > 0.05
    x, y = box["x"] + 0.9 * box["width"], box["y"] + 0.5 * box["height"]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y + 20, steps=3)
    page.mouse.up()
    page.wait_for_timeout(500)
    same, after = bright()
    assert (same != planes).mean() < 0.01 and (after != before).mean() > 0.01
    page.select_option("#volume", "empty")
    page.wait_for_timeout(1000)
    planes, view = bright()
    assert planes.mean() < 0.02 and view.mean() < 0.02
    assert not faults and all(url.startswith(("file:", "blob:")) for url in asked)
    page.close()

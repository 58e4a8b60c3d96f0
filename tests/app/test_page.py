"""The page in Chromium, as a user sees it, and who may see it."""

import dataclasses
import io
import json
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from tiny import FACTS, ONE_LEVEL, ROOT, command, make_config, save_run

from motfm_jax import library
from motfm_jax.app.desk import Desk

gradio = pytest.importorskip("gradio", reason="gradio is not installed")

PICTURE = ".made img"
CHANGED = "([place, old]) => document.querySelector(place)?.src !== old"


@pytest.fixture(scope="module")
def served(tmp_path_factory, browser):
    """The address of a page of two runs. It ends while pages are open: the browser outlives it."""
    folder = tmp_path_factory.mktemp("app")
    labels = ("background", "cavity", "myocardium", "atrium")
    facts = dataclasses.replace(FACTS, mask_labels=labels)
    flow = save_run(folder / "flow", make_config(**ONE_LEVEL), facts)
    plain = save_run(folder / "plain", make_config(cond="none", **ONE_LEVEL))
    call = [sys.executable, "-m", "motfm_jax", "app", f"--run={flow}", f"--run={plain}", "--port=0"]
    with subprocess.Popen(
        call,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        # Ignored where the tests run in the background, and so it would be in the server.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as server:
        line = server.stdout.readline()
        assert line.startswith("http://127.0.0.1:") and "this machine alone" in line
        yield line.partition(", ")[0]
        server.send_signal(signal.SIGINT)
        try:
            assert server.wait(30) == 130
        finally:
            server.kill()


@pytest.fixture
def page(served, browser):
    """The page once its first image is there; it asks no other machine for anything."""
    shown = browser.new_page(viewport={"width": 1200, "height": 1000})
    asked, faults = [], []
    shown.on("request", lambda request: asked.append(request.url))
    shown.on("pageerror", lambda fault: faults.append(str(fault)))
    shown.goto(served)
    shown.wait_for_selector(PICTURE, timeout=60_000)
    shown.wait_for_function("document.querySelector('canvas').width === 16")
    settled(shown)
    yield shown
    assert not faults
    assert not [url for url in asked if not url.startswith((served, "data:", "blob:"))]


def source(shown):
    return shown.locator(PICTURE).first.get_attribute("src")


def settled(shown):
    """The picture once it has not changed for a while."""
    last = None
    while (now := source(shown)) != last:
        last = now
        shown.wait_for_timeout(1500)
    return now


def wait_for_another(shown, old):
    shown.wait_for_function(CHANGED, arg=[PICTURE, old], timeout=60_000)
    return source(shown)


def label_at(shown, row, column):
    """The colour of a pixel of the mask."""
    read = "([i, j]) => [...document.querySelector('canvas').getContext('2d')"
    return shown.evaluate(f"{read}.getImageData(j, i, 1, 1).data.slice(0, 3)]", [row, column])


@pytest.mark.slow
def test_the_image_follows_the_brush_and_undo_brings_it_back(page):
    page.click(".brush .clear")
    first, box = settled(page), page.locator("canvas").bounding_box()
    page.click("text=myocardium")
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.5)
    page.mouse.up()
    wait_for_another(page, first)
    assert label_at(page, 8, 5) == [0xE6, 0x9F, 0x00] and label_at(page, 1, 5) == [0, 0, 0]
    painted = settled(page)
    page.click(".brush .undo")
    wait_for_another(page, painted)
    assert settled(page) == first and label_at(page, 8, 5) == [0, 0, 0]


@pytest.mark.slow
def test_a_validation_image_gives_its_mask_and_a_seed_another_image(page):
    page.click(".brush .clear")
    first = settled(page)
    number = page.get_by_label("number input for mask and class of validation image")
    number.fill("2")
    number.press("Enter")
    second = wait_for_another(page, first)
    second = settled(page)
    page.click("text=another seed")
    third = wait_for_another(page, second)
    page.click(".brush .undo")  # the mask before the validation image's
    wait_for_another(page, third)
    assert label_at(page, 8, 8) == [0, 0, 0]
    assert page.get_by_label("seed", exact=True).input_value() == "1"


@pytest.mark.slow
def test_what_is_shown_is_saved(page, tmp_path):
    page.get_by_role("tab", name="save").click()
    page.click("text=make the file")
    link = page.locator("a[download]").first
    link.wait_for(timeout=60_000)
    with page.expect_download() as saved:
        link.click()
    saved.value.save_as(tmp_path / "samples.zip")
    with zipfile.ZipFile(tmp_path / "samples.zip") as archive:
        assert json.loads(archive.read("samples/samples.json"))["synthetic"] is True
        assert np.load(io.BytesIO(archive.read("samples/samples.npz")))["images"].shape[0] == 1


@pytest.mark.slow
def test_the_way_is_a_slider_and_each_run_a_tab(page):
    page.get_by_role("tab", name="plain").click()
    picture = page.locator(".made:visible img").first
    picture.wait_for(timeout=60_000)
    assert not page.locator("canvas").is_visible()
    page.get_by_role("tab", name="noise to image").locator("visible=true").click()
    page.get_by_role("button", name="draw").locator("visible=true").click()
    page.get_by_text("10 of 10 steps").wait_for(timeout=60_000)
    steps = page.get_by_label("number input for steps made").locator("visible=true")
    steps.fill("0")
    steps.press("Enter")
    page.get_by_text("0 of 10 steps", exact=True).wait_for(timeout=60_000)


@pytest.mark.slow
def test_every_tab_can_be_read_by_all(page, serious):
    for tab in ("image", "seeds", "noise to image", "save"):
        page.get_by_role("tab", name=tab, exact=True).locator("visible=true").click()
        page.wait_for_timeout(500)
        assert not serious(page), tab


def test_a_run_with_one_validation_image_has_a_page(tmp_path, monkeypatch):
    from motfm_jax.app.page import page

    monkeypatch.setattr(Desk, "records", ["the only one"])
    model = library.load(save_run(tmp_path / "run", make_config(cond="class", **ONE_LEVEL)))
    page([Desk(model)], tmp_path)


def test_others_need_the_password_and_browsers_stay_here():
    from starlette.testclient import TestClient

    from motfm_jax.app import server

    with gradio.Blocks() as blocks:
        gradio.Markdown("secret words")
    app = server.application(blocks, {}, password="right")
    with TestClient(app) as client:
        assert "secret words" not in client.get("/").text
        assert client.get("/config").status_code == 401
        assert client.get("/openapi.json").status_code == 404
        wrong = {"username": "motfm", "password": "wrong"}
        assert client.post("/login", data=wrong).status_code == 400
        assert client.post("/login", data=wrong | {"password": "right"}).status_code == 200
        answer = client.get("/")
        assert "secret words" in answer.text
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]


def test_a_port_that_cannot_be_had_is_refused(tmp_path):
    import socket

    run = save_run(tmp_path / "run", make_config(cond="none", **ONE_LEVEL))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for taken, why in ((port, "in use"), (99_999, "0-65535")):
            with pytest.raises(ValueError, match=f"--port={taken}: .*{why}"):
                command("app")([f"--run={run}", f"--port={taken}"])


def test_without_gradio_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in ("page", "server"):  # as if they were not imported yet
        monkeypatch.delitem(sys.modules, f"motfm_jax.app.{name}", raising=False)
        monkeypatch.delattr(f"motfm_jax.app.{name}", raising=False)
    with pytest.raises(ValueError, match=r"gradio is missing: pip install 'motfm_jax\[app\]'"):
        command("app")(["--run=nowhere"])

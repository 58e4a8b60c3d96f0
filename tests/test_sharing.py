"""Exports that are shared: loaded again, with a card, and from a hub."""

import http.server
import json
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny import ONE_LEVEL, ROOT, STEP, command, make_config, save_run

import motfm_jax as motfm
from motfm_jax import runs
from motfm_jax.io import hub

TWO = {"classes": [0, 1], "masks": np.ones((2, 16, 16), np.uint8), "steps": 2}
SAID = {"data": "Phantoms, made for tests.", "licence": "CC0-1.0"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(run, its export)."""
    folder = tmp_path_factory.mktemp("sharing")
    changes = {"data__root": "/home/somebody/scans", "train__init_from": "/home/somebody/first"}
    config = make_config(cond="mask+class", **changes, **ONE_LEVEL)
    run, out = save_run(folder / "run", config), folder / "phantom16"
    motfm.export(run, out, steps=2)
    return run, out


@pytest.fixture
def shared(made, tmp_path):
    """An export of its own."""
    shutil.copytree(made[1], tmp_path / "phantom16")
    return tmp_path / "phantom16"


@pytest.fixture
def samples(made, tmp_path):
    """Samples of the run, with numbers that evaluation would have written."""
    folder = tmp_path / "samples"
    motfm.load(made[0]).sample(2, **TWO).save(folder)
    (folder / "score.md").write_text(
        "| measure | generated | real |\n|---|---|---|\n| a | 1 | 2 |\n"
    )
    (folder / "audit.json").write_text(json.dumps({"share_closer": 0.031}))
    return folder


@pytest.mark.slow
def test_an_export_is_loaded_as_the_run_is(made):
    run, out = made
    images = [motfm.load(place).sample(2, **TWO, seed=3).images for place in (run, out)]
    np.testing.assert_array_equal(*images)
    assert motfm.load(out, STEP).step == STEP
    with pytest.raises(ValueError, match="from step 7 alone, 3 asked for"):
        motfm.load(out, 3)


def test_weights_that_were_changed_are_refused(shared):
    with np.load(shared / "weights.npz") as arrays:
        params = dict(arrays)
    name = next(iter(params))
    np.savez(shared / "weights.npz", **params | {name: params[name] + 1})
    with pytest.raises(ValueError, match="not the weights that were exported"):
        motfm.load(shared)


def test_a_card_says_what_the_model_is_and_no_place_on_this_machine(shared, samples, made):
    text = motfm.card(shared, **SAID, samples=samples)
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "cc0-1.0" and head["model_name"] == "phantom16"
    for expected in (
        "Phantoms, made for tests.",
        "| a | 1 | 2 |",
        "3.1% of",
        "Not meant for",
        "weights of first",
    ):
        assert expected in text
    assert "| classes | 2CH_ED, 2CH_ES, 4CH_ED, 4CH_ES |" in text
    assert not (shared / "weights").exists() and not (shared / "README.txt").exists()
    places = [b"/home/somebody", str(shared.parent).encode(), str(ROOT / "motfm_jax").encode()]
    places.append(str(made[1].parent).encode())
    for file in filter(Path.is_file, shared.rglob("*")):
        assert not any(place in file.read_bytes() for place in places), file
    # Its lines run, with the folder's path.
    lines = text.split("```python\n")[1].split("```")[0].replace("PATH OF THIS FOLDER", str(shared))
    exec(lines)
    safetensors = pytest.importorskip("safetensors.numpy")
    saved = safetensors.load_file(shared / "model.safetensors")
    params = motfm.load(made[0]).params
    assert saved.keys() == params.keys()
    assert all((saved[name] == leaf).all() for name, leaf in params.items())


def test_a_card_needs_what_only_its_author_knows_and_samples_of_its_weights(shared, samples):
    with pytest.raises(ValueError, match="--licence is empty"):
        motfm.card(shared, data="Phantoms", licence=" ")
    about = json.loads((shared / "export.json").read_text())
    (shared / "export.json").write_text(json.dumps(about | {"steps": 10}))
    with pytest.raises(ValueError, match="sampled with steps 2, exported with 10"):
        motfm.card(shared, **SAID, samples=samples)
    (shared / "export.json").write_text(json.dumps(about))
    sidecar = json.loads((samples / "samples.json").read_text())
    (samples / "samples.json").write_text(json.dumps(sidecar | {"checkpoint": "other"}))
    with pytest.raises(ValueError, match="other weights"):
        motfm.card(shared, **SAID, samples=samples)
    (samples / "score.md").unlink()
    with pytest.raises(ValueError, match="not scored yet"):
        motfm.card(shared, **SAID, samples=samples)
    with pytest.raises(ValueError, match="not an export"):
        motfm.card(samples, **SAID)
    assert not (shared / "README.md").exists()
    assert "None were given" in motfm.card(shared, **SAID)


def test_the_command_refuses_half_a_card(made, tmp_path):
    flags = [f"--run={made[0]}", f"--out={tmp_path / 'out'}"]
    with pytest.raises(ValueError, match="--data without --card"):
        command("export")([*flags, "--data=Phantoms"])
    with pytest.raises(ValueError, match="--licence is empty"):
        command("export")([*flags, "--card", "--data=Phantoms"])
    assert not (tmp_path / "out").exists()


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def served(shared, tmp_path, monkeypatch):
    """A stand-in for a hub that has lab/phantom16 at v1; the paths asked of it."""
    constants = pytest.importorskip("huggingface_hub.constants")
    (shared / "run_me.py").write_text("raise SystemExit")
    asked = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            place = self.path.split("?")[0]
            names = [file.name for file in shared.iterdir() if file.is_file()]
            if place == "/api/models/lab/phantom16/revision/v1":
                files = [{"rfilename": name} for name in names]
                return self.answer(
                    json.dumps({"id": "lab/phantom16", "sha": COMMIT, "siblings": files}).encode()
                )
            if place.startswith("/api/models/lab/phantom16/tree/"):
                tree = [
                    {
                        "type": "file",
                        "path": name,
                        "size": (shared / name).stat().st_size,
                        "oid": name,
                    }
                    for name in names
                ]
                return self.answer(json.dumps(tree).encode())
            for start in (f"/lab/phantom16/resolve/{ref}/" for ref in (COMMIT, "v1")):
                if place.startswith(start) and place.removeprefix(start) in names:
                    return self.answer((shared / place.removeprefix(start)).read_bytes())
            return self.send_error(404)

        do_HEAD = do_GET

        def answer(self, body):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hash(body):x}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    yield asked
    server.shutdown()


def test_a_model_comes_from_a_hub_at_its_revision_and_its_code_stays_there(served, made):
    model = motfm.load("hub:lab/phantom16@v1")
    expected = motfm.load(made[0])
    assert model.checkpoint_hash == expected.checkpoint_hash
    assert runs.load_guide("hub:lab/phantom16@v1").checkpoint_hash == expected.checkpoint_hash
    assert not any("run_me.py" in path or "jax_export" in path for path in served)
    with pytest.raises(ValueError, match="hub:lab/phantom16@v2: cannot be fetched"):
        motfm.load("hub:lab/phantom16@v2")


def test_a_hub_name_needs_a_revision_and_the_package(monkeypatch):
    with pytest.raises(ValueError, match="OWNER/NAME@REVISION needed"):
        motfm.load("hub:lab/phantom16")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'motfm_jax\[hub\]'"):
        hub.fetched("hub:lab/phantom16@v1")

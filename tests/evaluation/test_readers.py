"""Reader studies: what the page shows, and what readers' answers say."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from tiny import INTENSITY, command, make_config, save_run

from motfm_jax.data.cache import Arrays
from motfm_jax.evaluation import reader_scores, readers
from motfm_jax.evaluation.sets import Real, in_memory

CLASSES = ("2CH", "4CH")


def real(num=12, size=(8, 8)):
    """Image n is n everywhere, of class n % 2, but for a white and a black pixel."""
    images = np.ones((num, *size, 1), np.float32)
    images *= np.arange(num).reshape(-1, *[1] * (len(size) + 1))
    images[(slice(None), *[0] * len(size))], images[(slice(None), *[-1] * len(size))] = 255, 0
    meta = [{"name": f"p{n}", "patient": f"p{n}"} for n in range(num)]
    return Real("test", Arrays(images, None, np.arange(num) % 2, meta, CLASSES, ()))


def generated(num=10, size=(8, 8)):
    """Image n is 100 + n, of class n % 2."""
    images = np.full((num, *size, 1), 100, np.float32)
    images += np.arange(num, dtype=np.float32).reshape(-1, *[1] * (len(size) + 1))
    return in_memory(images, labels=np.arange(num) % 2)


def made(folder, choice, size=(8, 8)):
    """A key, and the page's data with each frame as an array [h, w]."""
    key = readers.make(folder, generated(size=size), real(size=size), INTENSITY, choice)
    text = (folder / "study.html").read_text()
    page = json.loads(re.search(r'type="application/json">(.*?)</script>', text)[1])
    page["trials"] = [
        [[decode(frame) for frame in frames] for frames in trial] for trial in page["trials"]
    ]
    return key, page


def decode(frame):
    data = base64.b64decode(frame.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


def shade(frames):
    return int(np.median(frames[0]))


def test_the_key_says_what_each_place_shows_and_the_page_does_not(tmp_path):
    key, page = made(tmp_path, readers.Choice(num=5))
    shades = [shade(images[0]) for images in page["trials"]]
    assert [value < 50 for value in shades] == [truth == "real" for truth in key["truth"]]
    assert key["truth"].count("real") == 5 and len(shades) == 10
    rows = {
        kind: [int(name.split()[1]) for (name,) in key["images"] if name.startswith(kind)]
        for kind in ("real", "generated")
    }
    # In the grey window of the real images, 0 to 255, values are grey levels.
    assert sorted(shades) == sorted(rows["real"] + [100 + n for n in rows["generated"]])
    assert sorted(n % 2 for n in rows["real"]) == sorted(n % 2 for n in rows["generated"])
    text = (tmp_path / "study.html").read_text()
    assert key["salt"] not in text and page["study"] == key["study"]
    # Nobody who knows the seed knows the order.
    again, _ = made(tmp_path / "again", readers.Choice(num=5))
    assert again["truth"] != key["truth"] or again["images"] != key["images"]
    assert {tuple(names) for names in again["images"]} == {tuple(names) for names in key["images"]}
    assert readers.read_key(tmp_path / "key.json") == key


def test_pairs_are_of_one_class_and_the_real_one_is_on_either_side(tmp_path):
    key, page = made(tmp_path, readers.Choice(num=6, pairs=True))
    for (left, right), side, names in zip(page["trials"], key["truth"], key["images"]):
        assert side == ("left" if shade(left) < 50 else "right")
        assert (shade(left) < 50) != (shade(right) < 50)
        assert len({int(name.split()[1]) % 2 for name in names}) == 1
    assert key["truth"].count("left") == 3


def test_volumes_are_three_planes_or_all_slices(tmp_path):
    _, planes = made(tmp_path / "planes", readers.Choice(num=2), (8, 8, 6))
    assert planes["trials"][0][0][0].shape == (8, 24) and len(planes["trials"][0][0]) == 1
    key, stack = made(tmp_path / "stack", readers.Choice(num=2, stack=True), (8, 8, 6))
    shown = stack["trials"][key["truth"].index("real")][0]
    assert [frame.shape for frame in shown] == [(8, 8)] * 6
    # the white voxel at the patient's left, back and bottom is at the lower left of the first slice
    assert shown[0][-1, 0] == 255 and shown[-1][0, -1] == 0


@pytest.mark.parametrize(
    "choice, message",
    [
        (dict(num=11), "there are 10 generated images"),
        (dict(num=0), "--num=0"),
        (dict(num=2, seed=-1), "--seed=-1"),
        (dict(num=2, stack=True), "two axes"),
    ],
)
def test_what_cannot_be_shown_is_refused(tmp_path, choice, message):
    with pytest.raises(ValueError, match=message):
        readers.make(tmp_path, generated(), real(), INTENSITY, readers.Choice(**choice))


def test_too_few_real_images_of_a_class_and_a_study_that_is_there_are_refused(tmp_path):
    unknown = in_memory(np.zeros((8, 8, 8, 1), np.float32), labels=np.full(8, 2))
    with pytest.raises(ValueError, match="beyond the run's 2"):
        readers.make(tmp_path, unknown, real(), INTENSITY, readers.Choice(num=2))
    nan = in_memory(np.full((8, 8, 8, 1), np.nan, np.float32))
    with pytest.raises(ValueError, match="not finite"):
        readers.make(tmp_path, nan, real(), INTENSITY, readers.Choice(num=2))
    all_of_one = in_memory(np.zeros((8, 8, 8, 1), np.float32), labels=np.zeros(8, int))
    with pytest.raises(ValueError, match="8 generated images of class 2CH, and only 6 real"):
        readers.make(tmp_path, all_of_one, real(), INTENSITY, readers.Choice(num=8))
    made(tmp_path, readers.Choice(num=2))
    before = (tmp_path / "key.json").read_bytes()
    with pytest.raises(ValueError, match="readers may have it"):
        made(tmp_path, readers.Choice(num=2))
    assert (tmp_path / "key.json").read_bytes() == before


def answers(folder, key, reader, judge, num=None):
    """A file as the page saves it: judge(truth, place) -> (answer, confidence)."""
    rows = [judge(truth, place) for place, truth in enumerate(key["truth"])][:num]
    saved = {"study": key["study"], "mode": key["mode"], "reader": reader}
    saved["answers"] = [
        {"answer": answer, "confidence": sure, "seconds": 2.0 + place}
        for place, (answer, sure) in enumerate(rows)
    ]
    path = folder / f"{reader}.json"
    path.write_text(json.dumps(saved))
    return path


def other(truth):
    return {"real": "generated", "generated": "real", "left": "right", "right": "left"}[truth]


def test_readers_are_scored(tmp_path):
    key, _ = made(tmp_path, readers.Choice(num=5))
    paths = [
        answers(tmp_path, key, "sharp", lambda truth, place: (truth, 3)),
        answers(tmp_path, key, "trusting", lambda truth, place: ("real", 1)),
        # wrong about generated images only, and unsure of them
        answers(
            tmp_path,
            key,
            "late",
            lambda truth, place: ("real", 3 if truth == "real" else 1),
        ),
    ]
    scores = reader_scores.score(key, [reader_scores.read_answers(path, key) for path in paths])
    sharp, trusting, late = scores.rows()
    assert (sharp["accuracy"], sharp["sensitivity"], sharp["AUC"]) == (1, 1, 1)
    assert (trusting["sensitivity"], trusting["specificity"], trusting["AUC"]) == (0, 1, 0.5)
    assert (late["accuracy"], late["AUC"]) == (0.5, 1)  # confidence alone tells them apart
    assert sharp["seconds"] == 6.5
    assert scores.accuracy.value == pytest.approx(2 / 3)
    # all agree on real images, two of three on generated ones; 25 of 30 answers are "real"
    agreement, chance = (1 + 1 / 3) / 2, (25 / 30) ** 2 + (5 / 30) ** 2
    assert scores.kappa == pytest.approx((agreement - chance) / (1 - chance))
    text = reader_scores.write(tmp_path / "scores", scores)
    assert "3 readers judged 10 images with an accuracy of 66.7%" in text and "| late |" in text
    assert (tmp_path / "scores" / "study.png").stat().st_size > 5000


def test_pairs_are_scored_and_unfinished_readers_too(tmp_path):
    key, _ = made(tmp_path, readers.Choice(num=6, pairs=True))
    paths = [
        answers(tmp_path, key, "a", lambda truth, place: (other(truth), 2)),
        answers(tmp_path, key, "b", lambda truth, place: (truth, 2), num=4),
    ]
    scores = reader_scores.score(key, [reader_scores.read_answers(path, key) for path in paths])
    first, second = scores.rows()
    assert (first["accuracy"], second["accuracy"], second["answers"]) == (0, 1, 4)
    assert "AUC" not in first and scores.accuracy.value == 0.5
    assert "side by side, 2 readers judged 4 pairs" in reader_scores.write(tmp_path / "out", scores)


def test_what_is_not_of_the_study_is_refused(tmp_path):
    key, _ = made(tmp_path, readers.Choice(num=5))
    changed = key | {"truth": [other(truth) for truth in key["truth"]]}
    (tmp_path / "changed.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="not the one that was sealed"):
        readers.read_key(tmp_path / "changed.json")
    with pytest.raises(ValueError, match="not the key of a study"):
        readers.read_key(answers(tmp_path, key, "a", lambda truth, place: (truth, 1)))
    path = answers(tmp_path, key, "a", lambda truth, place: (truth, 1))
    with pytest.raises(ValueError, match="another study"):
        reader_scores.read_answers(path, made(tmp_path / "other", readers.Choice(num=5, seed=1))[0])
    with pytest.raises(ValueError, match="not answers"):
        reader_scores.read_answers(tmp_path / "key.json", key)
    twice = [reader_scores.read_answers(path, key)] * 2
    with pytest.raises(ValueError, match=r"\['a'\] came twice"):
        reader_scores.score(key, twice)
    path = answers(tmp_path, key, "b", lambda truth, place: ("left", 1))
    with pytest.raises(ValueError, match="no page saves"):
        reader_scores.read_answers(path, key)


@pytest.fixture
def page(tmp_path, browser):
    """(a page of Chromium showing tmp_path/study.html of 3 + 3 images, the key)."""
    key, _ = made(tmp_path, readers.Choice(num=3))
    shown = browser.new_page()
    faults = []
    shown.on("pageerror", lambda fault: faults.append(fault))
    shown.goto((tmp_path / "study.html").as_uri())
    yield shown, key
    assert not faults
    shown.close()


@pytest.mark.slow
def test_a_reader_answers_rests_comes_back_and_saves(page, tmp_path):
    shown, key = page
    shown.fill("#reader", "Reader 7")
    shown.keyboard.press("Enter")
    press = shown.keyboard.press
    press("2")  # nothing is chosen yet
    assert shown.inner_text("#count") == "image 1 of 6"
    for keys in ("f3", "j1", "f2"):
        for each in keys:
            press(each)
    shown.keyboard.down("Backspace")
    shown.keyboard.down("Backspace")  # repeats
    shown.keyboard.up("Backspace")
    assert shown.inner_text("#count") == "image 3 of 6"
    press("j")
    press("2")
    assert shown.inner_text("#count") == "image 4 of 6"
    press(" ")
    assert shown.is_visible("#rest") and not shown.is_visible("#stage")
    shown.reload()
    shown.fill("#reader", "Reader 7")
    shown.keyboard.press("Enter")
    assert "answered 3 of 6" in shown.inner_text("#known")
    shown.keyboard.press("Enter")
    assert shown.inner_text("#count") == "image 4 of 6"
    for _ in range(3):
        shown.click("#first")
        shown.click('[data-sure="3"]')
    assert "Thank you" in shown.inner_text("#end")
    with shown.expect_download() as saved:
        shown.click("#end .save")
    path = tmp_path / "saved.json"
    saved.value.save_as(path)
    assert saved.value.suggested_filename == "answers-Reader_7.json"
    found = [(row["answer"], row["confidence"]) for row in json.loads(path.read_text())["answers"]]
    expected = [("real", 3), ("generated", 1), ("generated", 2)] + [("real", 3)] * 3
    assert found == expected
    assert reader_scores.read_answers(path, key).reader == "Reader 7"


@pytest.mark.slow
def test_the_command_makes_and_scores_a_study(tmp_path, capsys):
    config = make_config(data__phantom_patients=20)
    run = save_run(tmp_path / "run", config)
    samples = tmp_path / "samples"
    samples.mkdir()
    images = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 1)).astype(np.float32)
    np.savez(samples / "samples.npz", images=images, classes=np.arange(4))
    study = command("study")
    flags = [f"--run={run}", f"--samples={samples}", "--split=valid", "--num=2"]
    study(["make", *flags, f"--out={tmp_path / 'study'}"])
    assert "real patients" in capsys.readouterr().out
    key = readers.read_key(tmp_path / "study" / "key.json")
    path = answers(tmp_path, key, "a", lambda truth, place: (truth, 3))
    key_flag = f"--key={tmp_path / 'study' / 'key.json'}"
    study(["score", key_flag, f"--answers={path}", f"--out={tmp_path / 'out'}"])
    assert "| a | 4 | 1 [0.5101, 1] |" in capsys.readouterr().out
    sidecar = {"condition": {"classes": ["lateral"]}}
    (samples / "samples.json").write_text(json.dumps(sidecar))
    with pytest.raises(ValueError, match="made for classes lateral; the real images have 2CH_ED"):
        study(["make", *flags, f"--out={tmp_path / 'other'}"])

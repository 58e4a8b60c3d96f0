import csv
import json

import pytest

from motfm_jax.evaluation import tables


def test_results_are_kept_one_by_one(tmp_path):
    path = tmp_path / "out" / "results.json"
    results = tables.Results(path, {"epochs": 3})
    results.add({"system": "a", "seed": 0}, {"dice": 0.5, "asd": float("nan")})
    again = tables.Results(path, {"epochs": 3})
    assert again.has(system="a", seed=0) and not again.has(system="a", seed=1)
    assert again.rows == [{"system": "a", "seed": 0, "dice": 0.5, "asd": None}]
    json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    with pytest.raises(ValueError, match=r"other settings \(epochs was 3, is 4\)"):
        tables.Results(path, {"epochs": 4})
    assert tables.Results(path, {"epochs": 4}, overwrite=True).rows == []
    again.add({"system": "b", "seed": 0}, {"dice": 0.1})
    again.add({"system": "a", "seed": 0}, {"dice": 0.7})  # anew
    assert [row["dice"] for row in again.rows] == [0.7, 0.1]
    for text in ("[]", '{"settings": [], "rows": [1]}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="holds no such results"):
            tables.Results(path, {"epochs": 3})


def test_mean_and_spread_over_seeds():
    rows = [
        {"system": name, "dice": dice, "asd": asd}
        for name, dice, asd in (("real", 0.5, 1.0), ("ours", 0.2, None), ("real", 0.7, 3.0))
    ]
    real, ours = tables.mean_and_spread(rows, "system", ("dice", "asd"))
    assert real["system"] == "real" and real["dice"] == pytest.approx(0.6)
    assert real["dice_std"] == pytest.approx(0.02**0.5) and real["asd"] == pytest.approx(2)
    assert ours == {"system": "ours", "dice": 0.2, "dice_std": None, "asd": None, "asd_std": None}


def test_an_interval_stands_beside_its_value():
    table = tables.Table("", [{"a": 2.0, "a_interval": [1.5, 2.52]}, {"a": 3.0}])
    assert table.markdown() == "| a |\n|---|\n| 2 [1.5, 2.52] |\n| 3 |\n"


def test_tables_in_markdown_and_csv(tmp_path):
    table = [
        {"system": "a, b", "dice": 0.61234, "dice_std": 0.0123, "n": 3},
        {"system": "c", "dice": None, "dice_std": None, "n": 4},
    ]
    tables.Table("Some numbers.", table).write(tmp_path / "table")
    assert (tmp_path / "table.md").read_text() == (
        "Some numbers.\n\n| system | dice | n |\n|---|---|---|\n"
        "| a, b | 0.6123 ± 0.012 | 3 |\n| c | n/a | 4 |\n"
    )
    with open(tmp_path / "table.csv") as file:
        first, second = csv.DictReader(file)
    assert first["system"] == "a, b" and float(first["dice"]) == 0.61234 and second["dice"] == ""

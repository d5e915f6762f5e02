"""The page of a comparison: what changed, by hand."""

import numpy as np

from knee_jax.metrics import comparison
from knee_jax.report.differences import (
    Compared,
    changed_tables,
    differences_text,
    headlines,
    write_differences,
)
from tests.factories import random_predictions, random_values
from tests.report.test_page import Page


def compared(first, second, names=("a", "b")):
    pair = comparison.pair(first, second)
    return Compared(*names, pair, comparison.compare(pair, 20))


def both(names=("kl",)):
    first = random_predictions(20, 0, names, skill=0.2)
    second = random_predictions(20, 0, names, skill=0.6)
    return first, second


def test_changed_knees_are_counted_and_listed_by_hand():
    first, second = both()
    counts, listed = changed_tables(compared(first, second))
    right = [t["kl"] == t["kl_pred"] for t in (first, second)]
    expected = [
        (right[0] & right[1]).sum(),
        (right[0] & ~right[1]).sum(),
        (~right[0] & right[1]).sum(),
        (~right[0] & ~right[1]).sum(),
    ]
    assert [int(row[1]) for row in counts.rows] == expected
    change = (first["kl_pred"] - second["kl_pred"]).abs()
    assert len(listed.rows) == min((change > 0).sum(), 40)
    shown = [abs(int(row[-1]) - int(row[-2])) for row in listed.rows]
    assert shown == sorted(change[change > 0], reverse=True)[: len(shown)]
    key = first.set_index(["subject", "side", "visit"])
    for row in listed.rows[:5]:
        knee = key.loc[(row[0], row[1], int(row[2]))]
        assert (row[3], row[4]) == (f"{knee['kl']:.0f}", f"{knee['kl_pred']:.0f}")


def test_the_same_model_twice_has_changed_nothing():
    first, _ = both()
    (counts,) = changed_tables(compared(first, first))
    assert counts.rows[1][1] == counts.rows[2][1] == "0"


def test_measured_values_change_by_their_distance():
    first = random_values(20)
    second = first.assign(jsw_medial_pred=first["jsw_medial_pred"] + np.linspace(0, 2, len(first)))
    _, listed = changed_tables(compared(first, second))
    assert listed.rows[0][0] == first["subject"].iloc[-1]


def test_the_page_has_differences_knees_and_their_heads(tmp_path):
    first, second = both()
    found = compared(first, second, ("a <1>", "b & 2"))
    page_file = tmp_path / "new" / "page.html"
    write_differences(page_file, [found, compared(first, first, ("a <1>", "c"))], [], "test")
    text = page_file.read_text()
    page = Page(text)
    for words in ("b & 2 minus a <1>", "on 40 knees of 20 subjects", "McNemar", "DeLong"):
        assert words in page.text
    assert "knees-that-changed-b-2" in page.ids
    assert "<script" not in text
    heads = headlines(found)
    assert {each.target for each in heads} <= {"KL grade", "KL >= 2"}
    assert heads[0].value in page.text
    assert "b & 2 minus a <1>" in differences_text(found)


def test_what_is_undefined_is_called_so():
    first, second = (t.assign(kl=2) for t in both())
    text = differences_text(compared(first, second))
    assert "undefined" in text
    assert "nan" not in text

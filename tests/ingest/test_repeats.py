import pytest

from knee_jax.ingest.repeats import find


def row(source, subject="1", side="L", split="train", kl=2, checksum="", visit=0):
    return {
        "split": split,
        "cohort": "OAI",
        "subject": subject,
        "side": side,
        "visit": visit,
        "source": source,
        "kl": kl,
        "checksum": checksum or source,
    }


def reasons(*rows):
    return {rows[i]["source"]: knee.reason for i, knee in find(rows, ["kl"]).items()}


def test_different_knees_are_all_kept():
    rows = [row("a"), row("b", side="R"), row("c", subject="2"), row("d", visit=12)]
    assert reasons(*rows) == {}


@pytest.mark.parametrize("splits", [("train", "val"), ("val", "test"), ("test", "train")])
def test_the_copy_that_is_held_out_to_the_last_is_kept(splits):
    order = ["test", "val", "train"]
    rows = [row(split, split=split) for split in splits]
    (left_out,) = reasons(*rows)
    assert left_out == max(splits, key=order.index)
    assert reasons(*rows) == {left_out: "repeated_knee"}
    (knee,) = find(rows, ["kl"]).values()
    assert "which is kept" in knee.detail


def test_of_two_readings_none_is_believed():
    assert reasons(row("a"), row("b", kl=3), row("c", subject="2")) == {
        "a": "two_readings",
        "b": "two_readings",
    }


def test_of_two_knees_with_the_same_pixels_none_is_believed():
    rows = [row("a", checksum="x"), row("b", subject="2", checksum="x"), row("c", subject="3")]
    assert reasons(*rows) == {"a": "pixels_of_another_knee", "b": "pixels_of_another_knee"}
    assert "b (2 L at month 0, split train)" in find(rows, ["kl"])[0].detail


def test_a_repeated_knee_is_not_another_knee_to_its_own_copy():
    rows = [row("a", checksum="x"), row("b", checksum="x"), row("c", side="R")]
    assert reasons(*rows) == {"b": "repeated_knee"}

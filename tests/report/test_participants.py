"""Numbers of knees and subjects, and where those went that are not there."""

import numpy as np
import pandas as pd

from knee_jax.ingest import flow
from knee_jax.report.participants import participants_section, table_one
from tests.factories import kinds


def index(subjects, seed=0, **columns):
    """Both knees of some subjects at two visits."""
    rng = np.random.default_rng(seed)
    rows = pd.MultiIndex.from_product(
        [[f"{seed}{n}" for n in range(subjects)], ["L", "R"], [0, 24]],
        names=["subject", "side", "visit"],
    ).to_frame(index=False)
    return rows.assign(cohort="C", kl=rng.integers(0, 5, len(rows)), **columns)


def cells(table, row):
    return next(each[1:] for each in table.rows if each[0] == row)


def test_table_one_counts_subjects_knees_and_images():
    ages = np.repeat([50.0, 60.0, 70.0], 4)
    train = index(3, age=ages, sex=np.repeat(["F", "F", "M"], 4), bmi=np.nan)
    train.loc[0, "kl"] = -1
    test = index(2, 1)
    table = table_one({"train": train, "test": test}, kinds(["kl"]))
    assert table.header == ("", "Training", "Test")
    assert cells(table, "Subjects") == ("3", "2")
    assert cells(table, "Knees") == ("6", "4")
    assert cells(table, "Knee images") == ("12", "8")
    assert cells(table, "Age, years") == ("60.0 (10.0)", "not known")
    assert cells(table, "Sex: women") == ("2 (67 %)", "not known")
    assert not any("mass" in row[0] for row in table.rows)
    assert "Not known of these knees: body mass index." in table.notes
    for grade in range(5):
        counted = [int(cell.split()[0]) for cell in cells(table, f"KL {grade}")]
        assert counted == [(each["kl"] == grade).sum() for each in (train, test)]
    assert cells(table, "KL unknown") == ("1", "0")


def test_measured_values_have_mean_and_deviation():
    rows = index(2, jsw_medial=np.array([4.0, 5.0, 6.0, np.nan] * 2))
    table = table_one({"train": rows}, kinds(["jsw_medial"]))
    (row,) = (each for each in table.rows if "mm" in each[0])
    assert row[1] == "5.00 (0.89)"


def test_the_flow_tells_every_loss_with_its_reason():
    into = flow.flow(90, {"no_film": 6, "prosthesis": 3, "repeated_film": 1})
    used = {"train": {"used": 12, "unread": 4}, "test": {"used": 8}}
    section = participants_section(
        {"train": index(3), "test": index(2, 1)}, used, {"set": into}, kinds(["kl"])
    )
    (study,), (prepared,), parts = section.flow
    two = participants_section({"train": index(3)}, used, {"a": into, "b": into}, kinds(["kl"]))
    assert [len(boxes) for boxes in two.flow] == [2, 2, 1]
    assert (study.number, prepared.number) == ("100", "90")
    lost = " ".join(study.aside)
    for words in ("no film 6", "repeated film 1", "prosthesis 3"):
        assert words in lost
    assert sum(int(line.split()[0]) for line in study.aside) == 10
    assert [box.number for box in parts] == ["12 images of 3 subjects", "8 images of 2 subjects"]
    assert parts[0].aside == ("4 left out: unread",)
    assert parts[1].aside == ()

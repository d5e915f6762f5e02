"""Predictions of other software for knees of a prepared set."""

import numpy as np
import pytest

from knee_jax.data.prepared import open_set
from knee_jax.errors import UserError
from knee_jax.evaluation import foreign


@pytest.fixture(scope="module")
def prepared(tiny_data_dir):
    return open_set(tiny_data_dir / "phantom_xray/tiny/1.1.0", ("kl",))


@pytest.fixture
def table(prepared, tmp_path):
    """Writes probabilities of KL for every knee, with what is changed of the table."""

    def write(change=lambda table: table):
        knees = prepared.index[["subject", "side", "visit"]].copy()
        chances = np.random.default_rng(0).dirichlet(np.ones(5), len(knees)).round(6)
        for grade in range(5):
            knees[f"kl_p{grade}"] = chances[:, grade]
        path = tmp_path / "other.csv"
        change(knees).to_csv(path, index=False, sep=";")
        return path

    return write


def test_labels_come_from_the_set_and_classes_from_the_probabilities(prepared, table):
    found, notes = foreign.read(table(lambda t: t.sample(frac=1, random_state=0)), prepared)
    assert not notes
    assert len(found) == len(prepared.index)
    rows = prepared.find(found)
    assert found["kl"].tolist() == prepared.index["kl"].iloc[rows].tolist()
    chances = found[[f"kl_p{grade}" for grade in range(5)]].to_numpy()
    assert found["kl_pred"].tolist() == chances.argmax(axis=1).tolist()


def test_rows_and_knees_without_one_another_are_counted(prepared, table):
    def change(table):
        table = table.iloc[3:].copy()
        table.loc[table.index[0], "subject"] = "nobody"
        return table

    found, notes = foreign.read(table(change), prepared)
    total = len(prepared.index)
    assert len(found) == total - 4
    assert notes[0].startswith("1 rows are of knees that phantom_xray/tiny does not have")
    assert notes[1].startswith(f"4 of {total} knees of phantom_xray/tiny have no prediction")


def test_a_table_of_a_spreadsheet_is_read(prepared, table):
    def change(table):
        table["side"] = table["side"].map({"L": "left", "R": "Right"})
        table["visit"] = table["visit"].astype(float)
        return table

    found, _ = foreign.read(table(change), prepared)
    assert len(found) == len(prepared.index)


MISTAKES = {
    "no subject": (lambda t: t.drop(columns="subject"), "lacks the column subject"),
    "of another set": (lambda t: t.assign(subject="x"), "is a knee of phantom_xray/tiny"),
    "twice": (lambda t: t.iloc[[0, 0, 1]], "repeats the knee"),
    "no target": (lambda t: t[["subject", "side", "visit"]], "has no target"),
    "no chance": (lambda t: t.assign(kl_p0=7), "kl_p0 is not a probability"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused(mistake, prepared, table):
    change, message = MISTAKES[mistake]
    with pytest.raises(UserError, match=message):
        foreign.read(table(change), prepared)


def test_labels_that_contradict_the_set_are_refused_and_equal_ones_are_not(prepared, table):
    labels = prepared.index["kl"]
    found, _ = foreign.read(table(lambda t: t.assign(kl=labels)), prepared)
    assert found["kl"].tolist() == labels.tolist()
    at = int(np.flatnonzero(labels == 2)[0])

    def change(table):
        table["kl"] = labels
        table.loc[at, "kl"] = 3
        return table

    message = rf"line {at + 2}: kl is not that of phantom_xray/tiny, and so in 1 rows"
    with pytest.raises(UserError, match=message):
        foreign.read(table(change), prepared)

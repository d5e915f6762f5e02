"""Agreement of readers against other libraries, and by hand."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from knee_jax import targets
from knee_jax.errors import UserError
from knee_jax.reading.agreement import (
    MODEL,
    agreements,
    disagreements,
    predictions_of,
    readers_table,
)
from tests.reading.test_study import make

KL = list(targets.get_all(("kl",)))
(OSFL,) = targets.get_all(("osfl",))


@pytest.fixture
def study(tmp_path):
    """60 knees that Ann reads twice in part, and Ben in part, each with some noise."""
    made = make(tmp_path / "study.db", number=60, repeats=0.3)
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 61)
    for reader, places in (("Ann", 78), ("Ben", 40)):
        made.join(reader)
        for place in range(places):
            knee = made.picture(reader, place)[0]
            value = int(np.clip(truth[knee] + rng.integers(-1, 2), 0, 4))
            made.read(reader, place, "kl", value)
    return made


def values(study, reader, again=False):
    found = study.readings()
    own = found[(found["reader"] == reader) & (found["again"] == again)]
    return own.set_index("knee")["value"]


def test_kappas_are_those_of_another_library(study):
    predicted = pd.Series(np.arange(60) % 5, np.arange(1, 61))
    found = {
        (a.first, a.second): a for a in agreements(study.readings(), KL, {"kl": predicted}, 50)
    }
    assert set(found) == {
        ("Ann", "Ann"),
        ("Ben", "Ben"),
        ("Ann", "Ben"),
        ("Ann", MODEL),
        ("Ben", MODEL),
    }
    for pair, (one, other) in {
        ("Ann", "Ben"): (values(study, "Ann"), values(study, "Ben")),
        ("Ann", "Ann"): (values(study, "Ann"), values(study, "Ann", again=True)),
        ("Ben", MODEL): (values(study, "Ben"), predicted),
    }.items():
        both = pd.concat([one, other], axis=1).dropna().astype(int).to_numpy()
        each = found[pair]
        assert each.n == len(both)
        kappa = cohen_kappa_score(*both.T, weights="quadratic", labels=range(5))
        assert each.kappa == pytest.approx(kappa)
        assert each.kappa_low <= each.kappa <= each.kappa_high
        assert each.exact == pytest.approx((both[:, 0] == both[:, 1]).mean())
        assert each.within_one == pytest.approx((abs(both[:, 0] - both[:, 1]) <= 1).mean())


def test_the_readers_table_has_every_knee_at_first_sight(study):
    table = readers_table(study.knees(), study.readings(), KL)
    assert list(table.columns) == ["subject", "side", "visit", "Ann", "Ben"]
    assert len(table) == 60
    assert table["Ann"].notna().all()
    ben = values(study, "Ben")
    assert table["Ben"].notna().sum() == len(ben)
    assert (table["Ben"].dropna().to_numpy() == ben.sort_index().to_numpy()).all()


def test_disagreements_come_by_size(study):
    table = disagreements(study.readings(), "kl")
    assert table["range"].is_monotonic_decreasing
    assert (table["range"] > 0).all()
    ann, ben = values(study, "Ann"), values(study, "Ben")
    both = pd.concat([ann, ben], axis=1).dropna().to_numpy()
    assert len(table) == (both[:, 0] != both[:, 1]).sum()


def test_a_model_is_found_by_file_and_side(study):
    knees = study.knees()
    table = knees[["file", "side"]].assign(kl_pred=np.arange(60) % 5)
    table.loc[3, "kl_pred"] = None  # Refused.
    found = predictions_of(table.sample(frac=1, random_state=0), knees, KL[0])
    assert found.loc[1] == 0
    assert found.loc[8] == 2
    assert 4 not in found.index
    assert predictions_of(table, knees, OSFL) is None
    with pytest.raises(UserError, match="none of the study's knees"):
        predictions_of(table.assign(file="x"), knees, KL[0])
    for value in (9, "x"):
        with pytest.raises(UserError, match=f"'?{value}'? as kl_pred: it is from 0 to 4"):
            predictions_of(table.astype({"kl_pred": object}).assign(kl_pred=value), knees, KL[0])
    with pytest.raises(UserError, match="no columns file and side"):
        predictions_of(table.drop(columns="file"), knees, KL[0])

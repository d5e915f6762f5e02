import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from knee_jax.errors import UserError
from knee_jax.phantom import severity
from knee_jax.targets.grades import GRADES

VISITS = (0, 12, 24, 36)
COHORTS = {"oai": severity.OAI, "most": severity.MOST}


@pytest.fixture(scope="module")
def cohort() -> pd.DataFrame:
    return severity.simulate(6000, visits=VISITS, seed=11)


@pytest.fixture(scope="module")
def most() -> pd.DataFrame:
    return severity.simulate(4000, seed=11, cohort=severity.MOST)


def with_all_grades(knees: pd.DataFrame) -> pd.DataFrame:
    return knees[(knees[[f"read_{name}" for name in GRADES]] >= 0).all(axis=1)]


@pytest.fixture(scope="module")
def labelled(cohort) -> pd.DataFrame:
    return with_all_grades(cohort)


@pytest.fixture(scope="module")
def both(labelled, most) -> dict[str, pd.DataFrame]:
    return {"oai": labelled, "most": with_all_grades(most)}


@pytest.mark.parametrize("name", GRADES)
@pytest.mark.parametrize("study", COHORTS)
def test_read_grades_have_the_marginals_of_table_1(both, study, name):
    published = np.array(COHORTS[study].marginals[GRADES.index(name)])
    knees = both[study]
    ours = np.bincount(knees[f"read_{name}"], minlength=len(published)) / len(knees)
    np.testing.assert_allclose(ours, published / published.sum(), atol=0.025)


def test_table_1_adds_up():
    assert {sum(counts) for counts in severity.OAI.marginals} == {19704}
    assert {sum(counts) for counts in severity.MOST.marginals} == {11743}


def test_cohorts_of_the_same_seed_are_of_other_people():
    """Else a network would be tested on knees like those it was trained on."""
    draws = [
        cohort.rng(3, 4, purpose).random(8) for cohort in COHORTS.values() for purpose in range(6)
    ]
    assert len(np.unique(np.concatenate(draws))) == 8 * len(draws)


def test_decimals_are_of_knees_just_below_the_next_grade(most, cohort):
    assert "nearly_kl" not in cohort
    cuts, (_, high) = severity.thresholds(severity.MOST)
    latent = np.tile(cuts[:, 0] - 1, (4, 1))
    latent[:, 3] = cuts[3, 0] + high + np.array([-0.2, -0.1, -0.01, 0.01])
    latent[:, 5] = cuts[5, 0] + np.array([-0.2, -0.1, -0.01, 0.01])
    assert severity.nearly(severity.MOST, latent).tolist() == [
        [False, False, False],
        [True, False, True],
        [True, False, True],
        [False, False, False],
    ]
    assert (most.loc[most["nearly_kl"], "read_kl"] == 1).all()
    for name in ("jsl", "jsm"):
        assert most.loc[most[f"nearly_{name}"], f"read_{name}"].isin([0, 1, 2]).all()
        assert 0.02 < most[f"nearly_{name}"].mean() < 0.12


@pytest.mark.parametrize("study", COHORTS)
@pytest.mark.parametrize("kind", ["read", "true"])
def test_kl_follows_from_the_features(both, study, kind):
    labelled = both[study]
    narrowing = labelled[[f"{kind}_jsl", f"{kind}_jsm"]].max(axis=1)
    osteophyte = labelled[[f"{kind}_{name}" for name in severity.OSTEOPHYTES]].max(axis=1)
    kl = labelled[f"{kind}_kl"]
    assert ((kl == 4) == (narrowing == 3)).all()
    assert ((kl == 3) == (narrowing == 2)).all()
    assert (osteophyte[kl == 0] == 0).all()
    assert (narrowing[kl == 0] == 0).all()
    assert (osteophyte[kl == 2] >= 1).all()
    assert (osteophyte[kl == 1] <= 1).all()


def test_both_knees_of_a_subject_are_related(cohort):
    baseline = cohort[cohort["visit"] == 0]
    knees = baseline.pivot(index="number", columns="side", values="true_kl")
    assert 0.35 < knees["R"].corr(knees["L"]) < 0.65


def test_readers_agree_with_the_truth_as_readers_do(labelled):
    for name in GRADES:
        kappa = cohen_kappa_score(
            labelled[f"true_{name}"], labelled[f"read_{name}"], weights="quadratic"
        )
        assert 0.8 < kappa < 0.96, name


def test_the_illness_never_recedes_and_progresses_in_some(cohort):
    for name in GRADES:
        wide = cohort.pivot(index=["number", "side"], columns="visit", values=f"true_{name}")
        steps = np.diff(wide.dropna().to_numpy(), axis=1)
        assert (steps >= 0).all()
    kl = cohort.pivot(index=["number", "side"], columns="visit", values="true_kl").dropna()
    assert 0.05 < (kl[36] > kl[0]).mean() < 0.3


def test_codes_say_why_a_grade_is_missing(cohort):
    share = cohort["code"].value_counts(normalize=True)
    assert set(share.index) == {"", "U", "P", "T", "M", "A"}
    assert share[""] > 0.8
    grades = cohort[[f"read_{name}" for name in GRADES]]
    assert (grades[cohort["code"].isin(["U", "P", "T", "M"])] == -1).all(axis=None)
    unscored = grades[cohort["code"] == "A"]
    assert unscored["read_kl"].isin([0, 1]).all()
    assert (unscored.drop(columns="read_kl") == -1).all(axis=None)
    assert (cohort.loc[cohort["code"] == "P", "visit"] > 0).all()


def test_a_replaced_knee_stays_replaced(cohort):
    marks = cohort[cohort["code"].isin(["P", ""])]
    last_own = marks[marks["code"] == ""].groupby(["number", "side"])["visit"].max()
    first_metal = marks[marks["code"] == "P"].groupby(["number", "side"])["visit"].min()
    both = pd.concat([last_own, first_metal], axis=1, keys=["own", "metal"]).dropna()
    assert len(both) > 20
    assert (both["own"] < both["metal"]).all()


def test_a_subject_is_the_same_in_any_cohort(cohort):
    few = severity.simulate(5, visits=(12, 0), seed=11)
    same = cohort[(cohort["number"] < 5) & cohort["visit"].isin([0, 12])]
    pd.testing.assert_frame_equal(few, same.reset_index(drop=True))
    assert not few.equals(severity.simulate(5, visits=(0, 12), seed=12))


def test_size_of_the_signs_grows_with_the_true_grade(cohort):
    for name in severity.OSTEOPHYTES:
        by_grade = cohort.groupby(f"true_{name}")[f"spur_{name}"]
        assert by_grade.max()[0] <= by_grade.min()[1]
        assert by_grade.max()[1] <= by_grade.min()[2]
        assert by_grade.max()[2] <= by_grade.min()[3]
        assert 1 < by_grade.mean()[1] < 3.5 < by_grade.mean()[2] < 5.5 < by_grade.mean()[3] < 9.1
    for name in ("jsl", "jsm"):
        lost = cohort.groupby(f"true_{name}")[f"lost_{name}"].agg(["min", "mean", "max"])
        assert (lost["max"].to_numpy()[:-1] <= lost["min"].to_numpy()[1:]).all()
        assert lost["mean"][0] < 0.15
        assert lost["mean"][3] > 0.8


@pytest.mark.parametrize("study", COHORTS.values(), ids=COHORTS)
def test_grade_cuts_where_the_thresholds_are(study):
    cuts, _ = severity.thresholds(study)
    for grade in range(4):
        low = cuts[:, grade - 1] if grade else cuts[:, 0] - 1
        at = np.stack([low, low + 1e-9, low + 1e-6])
        assert (severity.grade(study, at)[:, 1:] == grade).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_subjects": 3, "visits": (0, 18)}, r"months \[18\]"),
        ({"num_subjects": 3, "visits": (12,), "cohort": severity.MOST}, r"months \[12\]"),
        ({"num_subjects": 0}, "at least 1 subject"),
    ],
)
def test_impossible_cohorts_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        severity.simulate(**arguments)

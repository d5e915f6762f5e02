import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sk

from knee_jax.errors import UserError
from knee_jax.metrics.readers import (
    LABEL,
    MODEL,
    compare,
    kappa_with,
    mcnemar,
    positive_probabilities,
    read_study,
)


def predictions_of(truth, prediction, target="kl0_vs_kl2", classes=2):
    """A table of two knees a subject, in which the model is 80 % sure of what it predicts."""
    num = len(truth)
    table = pd.DataFrame(
        {"subject": [f"{i // 2:04d}" for i in range(num)], "side": ["L", "R"] * (num // 2)}
    ).assign(visit=0)
    table[target], table[f"{target}_pred"] = truth, prediction
    probabilities = np.where(np.eye(classes)[prediction] == 1, 0.8, 0.2 / (classes - 1))
    for c in range(classes):
        table[f"{target}_p{c}"] = probabilities[:, c]
    return table


def erring(rng, truth, num_errors, classes=2):
    """A rater who is wrong about so many knees of each class."""
    grades = truth.copy()
    for label in range(classes):
        wrong = rng.choice(np.flatnonzero(truth == label), num_errors[label], replace=False)
        grades[wrong] = (grades[wrong] + rng.integers(1, classes, len(wrong))) % classes
    return grades


@pytest.fixture
def truth():
    """Of Wang et al.: 150 knees of KL 0 and 150 of KL 2."""
    return np.repeat([0, 1], 150)


@pytest.fixture
def make_study(tmp_path):
    """Reads a study from predictions and {column: values}, written as CSV."""

    def make(predictions, columns, keys=("subject", "side"), rows=None):
        table = predictions[list(keys)].assign(**columns)
        table = table if rows is None else table.iloc[rows]
        path = tmp_path / "readers.csv"
        table.to_csv(path, index=False)
        return read_study(path, predictions)

    return make


def test_raters_of_known_errors(truth, make_study):
    """Kappa with the label is 2 accuracy - 1 where both classes are as frequent (Table VII)."""
    rng = np.random.default_rng(0)
    model, first, second = (erring(rng, truth, n) for n in ((10, 23), (10, 14), (8, 12)))
    study = make_study(predictions_of(truth, model), {"A": 2 * first, "B": 2 * second})
    raters, tests = compare(study, num_resamples=100)
    assert list(raters) == [MODEL, "A", "B"]
    errors = {MODEL: (10, 23), "A": (10, 14), "B": (8, 12)}
    for rater, (false_positives, false_negatives) in errors.items():
        estimates = raters[rater]
        accuracy = 1 - (false_positives + false_negatives) / 300
        assert estimates["accuracy"]["value"] == pytest.approx(accuracy)
        assert estimates["sensitivity"]["value"] == pytest.approx(1 - false_negatives / 150)
        assert estimates["specificity"]["value"] == pytest.approx(1 - false_positives / 150)
        assert estimates[kappa_with(LABEL)]["value"] == pytest.approx(2 * accuracy - 1)
        for estimate in estimates.values():
            assert estimate["low"] < estimate["value"] < estimate["high"]
            assert estimate["n"] == 300
    graded = {LABEL: truth, MODEL: model, "A": first, "B": second}
    kappas = {
        MODEL: [LABEL],
        "A": [LABEL, MODEL],
        "B": [LABEL, MODEL, "A"],
    }
    for rater, others in kappas.items():
        for other in others:
            expected = sk.cohen_kappa_score(graded[rater], graded[other])
            assert raters[rater][kappa_with(other)]["value"] == pytest.approx(expected)
    for reader, grades in (("A", first), ("B", second)):
        assert tests[reader] == mcnemar(model == truth, grades == truth)


def test_five_grades_have_quadratic_kappa_and_are_positive_from_two(make_study):
    rng = np.random.default_rng(1)
    truth = rng.integers(5, size=200)
    model, reader = (erring(rng, truth, [n] * 5, classes=5) for n in (9, 6))
    study = make_study(predictions_of(truth, model, "kl", 5), {"A": reader})
    estimates = compare(study, num_resamples=10).raters["A"]
    assert study.target == "kl"
    assert estimates["accuracy"]["value"] == pytest.approx(1 - 30 / 200)
    assert estimates["sensitivity"]["value"] == sk.recall_score(truth >= 2, reader >= 2)
    assert estimates["specificity"]["value"] == sk.recall_score(truth < 2, reader < 2)
    for other, grades in ((LABEL, truth), (MODEL, model)):
        expected = sk.cohen_kappa_score(grades, reader, weights="quadratic")
        assert estimates[kappa_with(other)]["value"] == pytest.approx(expected)


def test_intervals_draw_subjects(truth, make_study):
    rng = np.random.default_rng(2)
    model, reader = erring(rng, truth, (20, 30)), erring(rng, truth, (15, 15))
    study = make_study(predictions_of(truth, model), {"A": 2 * reader})
    values = []
    for draw in np.random.default_rng(5).integers(150, size=(60, 150)):
        rows = np.concatenate([2 * draw, 2 * draw + 1])
        values.append(sk.cohen_kappa_score(model[rows], reader[rows]))
    estimate = compare(study, num_resamples=60, seed=5).raters["A"][kappa_with(MODEL)]
    np.testing.assert_allclose(
        [estimate["low"], estimate["high"]], np.percentile(values, [2.5, 97.5])
    )


def correctness(both, only_a, only_b, neither):
    a = np.repeat([True, True, False, False], (both, only_a, only_b, neither))
    b = np.repeat([True, False, True, False], (both, only_a, only_b, neither))
    return a, b


def test_mcnemar_by_hand():
    """Ten to three: 2 (1 + 13 + 78 + 286) / 2^13 exactly; (7 - 1)^2 / 13 and 7^2 / 13."""
    test = mcnemar(*correctness(50, 10, 3, 7))
    assert (test.only_first, test.only_second) == (10, 3)
    assert test.exact == pytest.approx(756 / 8192)
    assert test.corrected == pytest.approx(2 * stats.norm.sf(6 / np.sqrt(13)))
    assert test.uncorrected == pytest.approx(2 * stats.norm.sf(7 / np.sqrt(13)))
    assert mcnemar(*correctness(50, 3, 10, 7))[2:] == pytest.approx(test[2:])


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (4, 4), (1, 0), (0, 9), (25, 40)])
def test_mcnemar_is_scipys(only_a, only_b):
    """Exact is the sign test; where neither is right more often, no form finds a difference."""
    test = mcnemar(*correctness(11, only_a, only_b, 5))
    total = only_a + only_b
    if only_a == only_b:
        assert test[2:] == (1.0, 1.0, 1.0)
        return
    lower = stats.binom.cdf(min(only_a, only_b), total, 0.5)
    assert test.exact == pytest.approx(min(1.0, 2 * lower))
    # Against equal shares of the discordant knees McNemar's statistic is Pearson's.
    assert test.uncorrected == pytest.approx(stats.chisquare([only_a, only_b]).pvalue)
    half = np.sign(only_a - only_b) / 2
    corrected = stats.chisquare([only_a - half, only_b + half], [total / 2] * 2).pvalue
    assert test.corrected == pytest.approx(corrected)


def test_mcnemar_holds_its_level():
    """Two raters who are right equally often: at most 5 % of studies find a difference."""
    rng = np.random.default_rng(0)
    found = np.mean(
        [
            np.array(mcnemar(*(rng.random((2, 300)) < 0.9))[2:]) < 0.05  # plain is not exact
            for _ in range(400)
        ],
        axis=0,
    )
    assert found[0] <= 0.05
    assert found[1] <= 0.05
    assert found[2] <= 0.08


def test_mcnemar_is_of_the_same_knees():
    with pytest.raises(ValueError, match="not graded the same knees"):
        mcnemar(np.ones(5, bool), np.ones(1, bool))


@pytest.mark.parametrize(("errors", "most"), [(24, 0.29), (20, 0.1), (21, 0.135)])
def test_table_vii_holds_p_that_its_accuracies_do_not_allow(errors, most):
    """33 errors of the model, wherever those of the reader lie; printed are .53, .37 and .51."""
    tests = [
        mcnemar(*correctness(0, only_reader_wrong, 33 - errors + only_reader_wrong, 0))
        for only_reader_wrong in range(errors + 1)
    ]
    assert max(max(test[2:]) for test in tests) <= most


def test_only_knees_that_were_read_are_scored(truth, make_study):
    """In any order, with months written in another way, and where cohorts share numbers."""
    predictions = predictions_of(truth, truth)
    order = np.random.default_rng(3).permutation(300)[:40]
    study = make_study(predictions, {"A": 2 * truth}, rows=order)
    assert study.num_unread == 260
    np.testing.assert_array_equal(study.grades["A"], study.truth)
    assert study.knees["subject"].tolist() == predictions["subject"].iloc[order].tolist()
    later = predictions.assign(visit=24, kl0_vs_kl2=1 - truth)
    visits = pd.concat([predictions, later], ignore_index=True)
    columns = {"visit": visits["visit"].map("{:04.1f}".format), "A": 2 * visits["kl0_vs_kl2"]}
    study = make_study(visits, columns, rows=300 + order)
    np.testing.assert_array_equal(study.grades["A"], study.truth)
    assert set(study.knees["visit"]) == {24}
    cohorts = pd.concat([predictions.assign(cohort=c) for c in ("oai", "most")])
    columns = {"A": np.tile(2 * truth, 2)}
    study = make_study(cohorts, columns, keys=("cohort", "subject", "side"))
    assert study.num_unread == 0
    assert (study.knees["cohort"] == cohorts["cohort"].to_numpy()).all()


def test_confidence_is_that_of_the_grade_given(truth, make_study):
    columns = {
        "A": 2 * truth,
        "A_confidence": 0.9,
        "B": 2 * (1 - truth),
        "B_confidence": 0.6,
        "C": 0,
    }
    study = make_study(predictions_of(truth, truth), columns)
    probabilities = positive_probabilities(study)
    assert list(study.confidences) == ["A", "B"]
    np.testing.assert_allclose(probabilities[MODEL], np.where(truth, 0.8, 0.2))
    expected = np.where(truth, (0.9 + 0.4) / 2, (0.1 + 0.6) / 2)
    np.testing.assert_allclose(probabilities["readers"], expected)
    assert positive_probabilities(make_study(predictions_of(truth, truth), {"C": 0})) == {}


GOOD = "subject,side,A\n0000,L,0\n0000,R,2\n0001,L,0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe\x00", "byte 1 (0x89), in line 1, is not UTF-8"),
        ("subject,side,A\n1,2,3,4,5\n", "line 2 has 5 fields, the header 3"),
        ("subject,side,A\n", "has no rows"),
        (GOOD.replace("side", "knee"), "lacks the column side"),
        ("subject,side\n0000,L\n", "has no column of a reader's grades"),
        ("subject,side,A_confidence\n0000,L,1\n", "has no column of a reader's grades"),
        (GOOD.replace("A", "A,A", 1), "two columns are called A"),
        (GOOD.replace("A", "", 1), "column 3 has no name"),
        (GOOD.replace("A", "Model", 1), "a reader cannot be called Model"),
        (GOOD.replace("A", "label", 1), "a reader cannot be called label"),
        (GOOD.replace("0001,L", "0000,L"), "row 3, subject 0000, side L, is there twice"),
        (
            GOOD.replace("0000,R", "7777,R").replace("0001", "1"),
            "row 2, subject 7777, side R, is not among the predictions; and 1 more rows",
        ),
        (GOOD.replace("0000,R", ",R"), "row 2, subject , side R, is not among the predictions"),
        (GOOD.replace("R,2", "R,"), "row 2, subject 0000, side R, has no grade of A"),
        (
            GOOD.replace("R,2", "R,1"),
            "row 2, subject 0000, side R, has another grade of A than 0, 2, the KL grades of KL 0 "
            "against KL 2 (found '1')",
        ),
        (GOOD.replace("R,2", "R,two"), "has another grade of A than 0, 2"),
        (GOOD.replace("R,2", "R,0.5"), "has another grade of A than 0, 2"),
        (
            "subject,side,A,A_confidence\n0000,L,0,0.5\n0000,R,2,1.5\n",
            "row 2, subject 0000, side R, has a A_confidence that is not in 0 to 1 (found '1.5')",
        ),
        ("subject,side,A,A_confidence\n0000,L,0,\n", "A_confidence that is not in 0 to 1"),
        ("subject,side,A,B_confidence\n0000,L,0,1\n", "B_confidence is of no reader: there is no"),
        (GOOD + "0149,R,0\n", "row 4, subject 0149, side R, has no label of KL 0 against KL 2"),
        (GOOD + "0148,R,0\n", "side R, is several knees of the predictions: add the column visit"),
    ],
)
def test_a_bad_table_is_named(tmp_path, truth, text, message):
    """Knee 0149 R has no class, and of 0148 R there are two visits."""
    predictions = predictions_of(np.append(truth[:-1], -1), truth)
    again = predictions.iloc[[297]].assign(visit=24)
    predictions = pd.concat([predictions, again], ignore_index=True)
    path = tmp_path / "readers.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        read_study(path, predictions)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_and_blanks_do_no_harm(tmp_path, truth):
    path = tmp_path / "readers.csv"
    path.write_text("\ufeffsubject, side , A\n0000 ,L, 0\n0000,R,2.0\n\n", encoding="utf-8")
    study = read_study(path, predictions_of(truth, truth))
    assert {reader: list(grades) for reader, grades in study.grades.items()} == {"A": [0, 1]}


def test_other_predictions_are_refused(tmp_path, truth, make_study):
    with pytest.raises(UserError, match="no such file"):
        read_study(tmp_path / "no.csv", predictions_of(truth, truth))
    with pytest.raises(UserError, match="the predictions have neither of kl and kl0_vs_kl2"):
        make_study(predictions_of(truth, truth, "jsm", 4), {"A": 0})
    both = predictions_of(truth, truth).join(predictions_of(truth, truth, "kl", 5).iloc[:, 3:])
    with pytest.raises(UserError, match="have kl and kl0_vs_kl2 of kl and kl0_vs_kl2"):
        make_study(both, {"A": 0})
    with pytest.raises(UserError, match="A_confidence: readers' confidence is compared where"):
        make_study(predictions_of(truth, truth, "kl", 5), {"A": 0, "A_confidence": 1})

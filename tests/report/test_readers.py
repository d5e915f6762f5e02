import numpy as np
import pandas as pd
import pytest

from knee_jax.metrics.readers import Study, compare, mcnemar, positive_probabilities
from knee_jax.report import figures
from knee_jax.report.readers import (
    confidence_figure,
    readers_numbers,
    readers_tables,
    write_readers,
)
from knee_jax.report.tables import format_estimate
from tests.factories import NUM_CLASSES, random_predictions
from tests.report.test_page import Page


def study_of(target="kl0_vs_kl2", confidences=("A", "B")):
    """Two readers, the second named to be escaped, of sixty knees."""
    knees = random_predictions(30, names=(target,))
    rng = np.random.default_rng(1)
    grades = {}
    for reader in ("A", "B <b>"):
        changed = rng.random(60) < 0.2
        other = (knees[target].to_numpy() + 1) % NUM_CLASSES[target]
        grades[reader] = np.where(changed, other, knees[target])
    sure = {reader: rng.uniform(0.5, 1, 60) for reader in grades if reader[0] in confidences}
    return Study(target, knees, grades, sure, num_unread=1234)


@pytest.fixture
def study():
    return study_of()


def test_tables_name_whose_kappa_it_is(study):
    comparison = compare(study, num_resamples=20)
    raters, tests, pairs = readers_tables(study, comparison)
    assert raters.header[-2:] == ("Kappa, label", "Kappa, model")
    assert [row[0] for row in raters.rows] == ["model", "A", "B <b>"]
    for row in raters.rows:
        assert row[1] == "60"
        estimates = comparison.raters[row[0]]
        for cell, metric in zip(
            row[2:],
            ("accuracy", "sensitivity", "specificity", "kappa_with_label", "kappa_with_model"),
            strict=True,
        ):
            shown = format_estimate(estimates[metric]) if metric in estimates else "-"
            assert cell.replace("\n", " ") == shown
    assert raters.rows[0][-1] == "-"
    test = mcnemar(study.prediction == study.truth, study.grades["A"] == study.truth)
    assert tests.rows[0] == ("A", str(test[0]), str(test[1]), *(f"{p:.3f}" for p in test[2:]))
    assert pairs.header == ("", "A")
    kappa = comparison.raters["B <b>"]["kappa_with_A"]
    assert pairs.rows[0][1].replace("\n", " ") == format_estimate(kappa)


def test_five_grades_say_which_kappa_it_is():
    study = study_of("kl", confidences=())
    comparison = compare(study, num_resamples=20)
    raters, _, pairs = readers_tables(study, comparison)
    assert raters.header[-2:] == ("Quadratic kappa, label", "Quadratic kappa, model")
    assert pairs.title == "Quadratic kappa of readers"
    assert "quadratic_kappa" in set(readers_numbers(study, comparison)["metric"])


def test_one_reader_has_no_pairs(study):
    alone = Study(study.target, study.knees, {"A": study.grades["A"]}, {}, 0)
    assert len(readers_tables(alone, compare(alone, num_resamples=5))) == 2


def test_every_number_is_a_row(study):
    comparison = compare(study, num_resamples=20)
    numbers = readers_numbers(study, comparison).set_index(["rater", "against", "metric"])
    assert numbers.index.is_unique
    scores = sum(len(estimates) for estimates in comparison.raters.values())
    assert len(numbers) == scores + 2 * len(comparison.tests["A"])
    kappa = numbers.loc[("B <b>", "A", "kappa")]
    found = comparison.raters["B <b>"]["kappa_with_A"]
    assert kappa.to_dict() == {name: found[name] for name in ("value", "low", "high", "n")}
    p = numbers.loc[("A", "model", "mcnemar_p_exact")]
    assert p["value"] == comparison.tests["A"].exact
    assert np.isnan(p["low"])
    assert numbers.loc[("A", "model", "only_reader_right"), "value"] == (
        comparison.tests["A"].only_second
    )


def test_confidence_is_sorted_and_coloured_by_label(study):
    probabilities = positive_probabilities(study)
    figure = confidence_figure(probabilities, study)
    for axes, values in zip(figure.axes, probabilities.values(), strict=True):
        _, negative, positive = axes.lines
        for line, label in ((negative, 0), (positive, 1)):
            drawn = np.sort(line.get_ydata())
            np.testing.assert_array_equal(drawn, np.sort(values[study.truth == label]))
        places, drawn = np.concatenate([negative.get_xydata(), positive.get_xydata()]).T
        assert sorted(places) == list(range(1, 61))
        assert (np.diff(drawn[np.argsort(places)]) <= 0).all()
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        *("label KL 0", "label KL 2")
    ]


def test_all_is_written_and_an_earlier_figure_does_not_stay(study, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "save", lambda figure, path: path.touch())
    folder = tmp_path / "new" / "folder"
    comparison = compare(study, num_resamples=20)
    text = write_readers(folder, study, comparison, "By hand.")
    assert (folder / "readers.txt").read_text() == text + "\n"
    assert "60 knees of 30 subjects, each graded by A, B <b>; 1,234 other knees" in text
    page = Page((folder / "readers.html").read_text())
    assert [s[:19] for s in page.sources] == ["data:image/svg+xml;"]
    for words in ("B <b>", "Kappa, model", "By hand.", "mean of A, B <b>", "1,234 other knees"):
        assert words in page.text
    back = pd.read_csv(folder / "readers.csv")
    assert back["value"].to_numpy() == pytest.approx(
        readers_numbers(study, comparison)["value"].to_numpy(), rel=1e-5
    )
    names = {"readers.txt", "readers.csv", "readers.html"}
    assert {path.name for path in folder.iterdir()} == names | {"readers_confidence.png"}
    quiet = study_of(confidences=())
    write_readers(folder, quiet, compare(quiet, num_resamples=5), "By hand.")
    assert {path.name for path in folder.iterdir()} == names
    assert Page((folder / "readers.html").read_text()).sources == []

import logging
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from knee_jax.errors import UserError
from knee_jax.metrics.bootstrap import describe
from knee_jax.report import figures
from knee_jax.report.examples import Example
from knee_jax.report.page import read_history, write_report
from knee_jax.report.sections import Drawing, Section
from knee_jax.report.tables import Table

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Checks that tags nest, and gathers links, ids and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.links, self.ids, self.text = [], [], [], [], ""
        self.cells = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "img":
            assert attributes["alt"]
            self.sources.append(attributes["src"])
        if tag == "a":
            self.links.append(attributes["href"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.cells.add(data)


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_report_is_whole_and_stands_alone(make_workdir, examples):
    workdir = make_workdir()
    path = write_report(workdir, examples, "Knees & more", describe(20))
    assert path == workdir / "report" / "index.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not re.search(r"(src|href)=\"(https?:)?//", text)
    drawn = {p.name for p in (workdir / "report" / "figures").iterdir()}
    assert {f"figures/{name}" for name in drawn} == set(page.sources)
    assert all(link.removeprefix("#") in page.ids for link in page.links)
    assert {"test_confusion_kl.png", "validation_curves.png", "training.png"} <= drawn
    assert {"test_confusion_oarsi.png", "test_distribution.png", "example_02.png"} <= drawn
    for words in ("Knees & more", "a & <b>", "not a medical device", "2.5 and 97.5", "model.name"):
        assert words.lower() in page.text.lower()
    assert text.index('id="split-test"') < text.index('id="split-validation"')


def test_the_same_inputs_give_the_same_files(make_workdir, examples):
    first, second = (make_workdir(name, ("kl", "jsm"), ["test"]) for name in "ab")
    for workdir in (first, second, second):
        write_report(workdir, examples, "Knees")
    assert snapshot(first / "report") == snapshot(second / "report")


def test_figures_of_an_earlier_report_do_not_stay(make_workdir, examples, undrawn):
    workdir = make_workdir(names=("jsl",))
    write_report(workdir, examples, "Knees")
    write_report(workdir, [], "Knees", intervals="By hand.")
    assert not list((workdir / "report" / "figures").glob("example_*"))
    assert "By hand." in (workdir / "report" / "index.html").read_text(encoding="utf-8")


def test_one_grade_and_nothing_but_an_evaluation(make_workdir, undrawn):
    workdir = make_workdir(names=("jsm",))
    for name in ("metrics.jsonl", "config.json", "environment.json"):
        (workdir / name).unlink()
    page = Page(write_report(workdir, [], "Knees").read_text(encoding="utf-8"))
    assert "figures/test_confusion_oarsi.png" in page.sources
    assert "figures/training.png" not in page.sources


def test_two_classes_have_matrix_curves_and_headlines(make_workdir, undrawn):
    image = np.zeros((8, 8), np.uint8)
    knee = Example(image, {"kl0_vs_kl2": 1}, {"kl0_vs_kl2": 0}, "early")
    workdir = make_workdir(names=("kl0_vs_kl2",))
    page = Page(write_report(workdir, [knee], "Knees").read_text(encoding="utf-8"))
    for name in ("confusion_kl0_vs_kl2", "curves", "distribution"):
        assert f"figures/test_{name}.png" in page.sources
    for metric in ("Accuracy", "Sensitivity", "Specificity", "ROC AUC"):
        assert f"KL 0 against KL 2: {metric}" in page.text
    for title in ("F1", "Kappa", "Brier score", "Calibration error", "KL 0/2", "KL 2", "KL 0"):
        assert title in page.cells
    assert "confusion_oarsi" not in "".join(page.sources)


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are files without content, since drawing takes most of a report's time."""
    monkeypatch.setattr(figures, "save", lambda figure, path: path.touch())


def test_progression_has_matrix_curves_and_headlines(make_workdir, undrawn):
    workdir = make_workdir(names=("progression",), splits=("test",))
    image = np.zeros((16, 20), np.uint8)
    knee = {"truth": {"progression": 1}, "prediction": {"progression": 2}, "modality": "volume"}
    page = write_report(workdir, [Example(image, **knee)], "progression").read_text()
    drawn = {path.stem for path in (workdir / "report" / "figures").iterdir()}
    assert {"test_confusion_progression", "test_curves", "test_distribution"} <= drawn
    text = re.sub(r"\s+", " ", page)
    assert "Progression, fast or slow: Average precision" in text
    assert "Progression: Balanced accuracy" in text
    assert "anterior at the left" in text
    assert "lateral at the left" not in text
    assert "Slice of a knee, Progression fast, predicted slow" in text


def test_the_splits_of_a_cross_validation_come_in_their_order(make_workdir, undrawn):
    splits = ("out_of_fold", "test_first_visit", "mine", "test")
    workdir = make_workdir(names=("jsl",), splits=splits)
    text = write_report(workdir, [], "Knees").read_text(encoding="utf-8")
    page = Page(text)
    assert [name for name in page.ids if name.startswith("split-")] == [
        *("split-test", "split-test_first_visit", "split-out_of_fold", "split-mine")
    ]
    for words in ("Results: test, first visit", "Results: out of fold", "without its subject's"):
        assert words in page.text


def test_further_sections_are_shown_with_tables_and_pictures(make_workdir, undrawn):
    table = Table("Kappa & more", ("Model", "KL"), (("<net>", "0.1\n[0.0, 0.2]"),), ("A note.",))
    drawings = [
        Drawing("cohorts_kl", "Grades of both cohorts", Figure((2, 1))),
        Drawing("label_0", "A knee", Figure((1, 1)), "subject 7 & R"),
    ]
    section = Section("Model selection", ("In brackets <b>",), (table,), drawings)
    workdir = make_workdir(names=("jsl",))
    path = write_report(workdir, [], "Knees", extra_sections=[section, Section("Nothing more")])
    page = Page(path.read_text(encoding="utf-8"))
    assert "#section-1" in page.links
    assert {"section-1", "section-2"} <= set(page.ids)
    for words in ("Kappa & more", "<net>", "[0.0, 0.2]", "A note.", "In brackets <b>", "7 & R"):
        assert words in page.text
    for drawing in drawings:
        assert f"figures/{drawing.name}.png" in page.sources
        assert (workdir / "report" / "figures" / f"{drawing.name}.png").exists()
    twice = Section("Again", drawings=[Drawing("test_confusion_oarsi", "x", Figure((1, 1)))])
    with pytest.raises(ValueError, match="two figures of the report"):
        write_report(workdir, [], "Knees", extra_sections=[twice])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.json", None, "no such file"),
        ("metrics.json", "{", "is not JSON"),
        ("metrics.json", "[]", "is not a JSON object"),
        ("metrics.json", "{}", "holds no metrics"),
        ("predictions/test.csv", None, "no such predictions table"),
        ("config.json", "{", "is not JSON"),
    ],
)
def test_a_damaged_work_directory_is_named(make_workdir, file, content, message):
    workdir = make_workdir(names=("jsl",))
    (workdir / file).unlink()
    if content is not None:
        (workdir / file).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        write_report(workdir, [], "Knees")
    assert str(workdir / file) in str(error.value)


def test_history_survives_a_kill_and_a_resume(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "train/loss": 3.0}\n'
        '{"step": 2, "train/loss": 9.0, "note": "text", "bad": null}\n'
        '{"step": 3, "tra\n'
        '{"step": 2, "train/loss": 2.0}\n'
    )
    with caplog.at_level(logging.WARNING):
        history = read_history(path)
    assert history.to_dict("list") == {
        "step": [1, 2],
        "name": ["train/loss", "train/loss"],
        "value": [3.0, 2.0],
    }
    assert "line 3 is not a row of scalars" in caplog.text

import logging
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from knee_jax.errors import UserError
from knee_jax.metrics.bootstrap import describe
from knee_jax.metrics.summary import summarise, write_metrics
from knee_jax.report import figures
from knee_jax.report import page as page_module
from knee_jax.report.examples import Example
from knee_jax.report.page import read_history, write_report
from knee_jax.report.sections import Box, Drawing, Section
from knee_jax.report.tables import Table
from tests.factories import random_predictions, random_values

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Checks that tags nest, and gathers links, ids, pictures and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.links, self.ids, self.text = [], [], [], [], ""
        self.cells, self.alts, self.scopes = set(), [], []
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
            self.alts.append(attributes["alt"])
        if tag == "a":
            self.links.append(attributes["href"])
        if tag == "th":
            self.scopes.append(attributes.get("scope"))

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
    # Nothing is asked of another file or host, and no script is needed.
    assert all(source.startswith("data:image/") for source in page.sources)
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert "<script" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert not (workdir / "report" / "figures").exists()
    inside = [link for link in page.links if link.startswith("#")]
    assert len(inside) > 5
    assert all(link.removeprefix("#") in page.ids for link in inside)
    assert len(page.ids) == len(set(page.ids))
    # Readers of screens can walk the tables.
    assert set(page.scopes) == {"col", "row"}
    alts = " ".join(page.alts)
    for words in ("Confusion matrix of KL", "ROC and", "OARSI", "Loss of training", "KL 0, pred"):
        assert words in alts
    for words in ("Knees & more", "a & <b>", "not a medical device", "2.5 and 97.5", "model.name"):
        assert words.lower() in page.text.lower()
    assert text.index('id="results-test"') < text.index('id="results-validation"')
    assert len(text) < 5e6


def luminance(colour):
    """Relative luminance of `#rgb` or `#rrggbb`, as WCAG defines it."""
    digits = colour.removeprefix("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    values = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_words_stand_out_by_day_and_by_night():
    """AA of WCAG: a contrast of 4.5 for text, on every ground that it stands on."""
    style = (Path(page_module.__file__).parent / "style.css").read_text()
    palettes = [dict(re.findall(r"--([\w-]+): (#\w+);", line)) for line in style.splitlines()]
    palettes = [palette for palette in palettes if palette]
    assert len(palettes) == 2
    for palette in palettes:
        for words in ("ink", "soft", "accent"):
            for ground in ("paper", "tint") + (("alert",) if words == "ink" else ()):
                light, dark = sorted((luminance(palette[c]) for c in (words, ground)), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (words, ground)


def test_figures_and_tables_are_files_too_where_they_are_wanted(make_workdir, examples):
    workdir = make_workdir(names=("jsm",), splits=("test",))
    (workdir / "metrics.jsonl").unlink()
    write_report(workdir, examples, "Knees", formats=("svg", "pdf"))
    drawn = {path.name for path in (workdir / "report" / "figures").iterdir()}
    assert {"test_confusion_oarsi.svg", "test_curves.pdf", "test_distribution.svg"} <= drawn
    assert "wrong_00.png" in drawn
    for path in (workdir / "report" / "figures").glob("*.svg"):
        # An editor opens what is well-formed, with a size, and holds all that it shows.
        root = ElementTree.fromstring(path.read_bytes())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert min(map(float, root.get("viewBox").split()[2:])) > 0
        ids = {f"#{each.get('id')}" for each in root.iter()}
        links = {each.get("{http://www.w3.org/1999/xlink}href") for each in root.iter()} - {None}
        assert all(link in ids or link.startswith("data:image/") for link in links)
    tables = sorted(path.name for path in (workdir / "report" / "tables").iterdir())
    assert tables[:2] == ["01_grades.csv", "01_grades.tex"]
    write_report(workdir, [], "Knees")
    assert not (workdir / "report" / "figures").exists()


def test_the_same_inputs_give_the_same_files(make_workdir, examples):
    first, second = (make_workdir(name, ("kl", "jsm"), ["test"]) for name in "ab")
    for workdir in (first, second, second):
        write_report(workdir, examples, "Knees")
    assert snapshot(first / "report") == snapshot(second / "report")


def test_one_grade_and_nothing_but_an_evaluation(make_workdir, undrawn):
    workdir = make_workdir(names=("jsm",))
    for name in ("metrics.jsonl", "config.json", "environment.json"):
        (workdir / name).unlink()
    page = Page(write_report(workdir, [], "Knees", "By hand.").read_text(encoding="utf-8"))
    assert "Confusion matrices of the OARSI grades" in page.alts
    assert "training" not in page.ids
    assert "By hand." in page.text
    # Only words that the page uses are explained.
    assert "JSM" in page.text
    for words in ("OSFL", "Bland", "Osteophytes, pooled", "harmonic mean of sensitivity and pos"):
        assert (words in page.text) == (words == "harmonic mean of sensitivity and pos")


def test_two_classes_have_matrix_curves_and_headlines(make_workdir, undrawn):
    image = np.zeros((8, 8), np.uint8)
    knee = Example(image, {"kl0_vs_kl2": 1}, {"kl0_vs_kl2": 0}, "early")
    workdir = make_workdir(names=("kl0_vs_kl2",))
    page = Page(write_report(workdir, [knee], "Knees").read_text(encoding="utf-8"))
    alts = " ".join(page.alts)
    for words in ("Confusion matrix of KL 0", "ROC and", "How often each class"):
        assert words in alts
    for metric in ("Sensitivity", "Specificity", "ROC AUC"):
        assert f"KL 0 against KL 2: {metric}" in page.text
    for title in ("F1", "Kappa", "Brier score", "Calibration error"):
        assert title in page.cells
    assert "OARSI" not in alts


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are without content, since drawing takes most of a report's time."""
    monkeypatch.setattr(figures, "rendered", lambda figure, kind: b"")


def test_progression_has_matrix_curves_and_headlines(make_workdir, undrawn):
    workdir = make_workdir(names=("progression",), splits=("test",))
    image = np.zeros((16, 20), np.uint8)
    knee = {"truth": {"progression": 1}, "prediction": {"progression": 2}, "modality": "volume"}
    page = write_report(workdir, [Example(image, **knee)], "progression").read_text()
    text = re.sub(r"\s+", " ", page)
    assert "Confusion matrix of Progression" in text
    assert "Progression, fast or slow: Average precision" in text
    assert "Progression: Balanced accuracy" in text
    assert "anterior (A) at the left" in text
    assert "lateral (L) at the left" not in text
    assert "Slice of a knee, read fast, predicted slow" in text
    # Classes without an order are no grades.
    assert "grade" not in Page(page).text.lower()


def test_a_measured_value_has_its_plot_and_its_own_words(make_workdir, undrawn):
    workdir = make_workdir(names=("kl",), splits=("test",))
    table = random_values(20)
    table.to_csv(workdir / "predictions" / "test.csv", index=False)
    write_metrics(workdir / "metrics.json", {"test": summarise(table, num_resamples=5)})
    page = Page(write_report(workdir, [], "Widths").read_text(encoding="utf-8"))
    assert any("Bland-Altman plot" in alt for alt in page.alts)
    for words in ("RMSE", "Bias", "Upper limit of agreement"):
        assert words in page.cells
    for words in ("grade", "true class", "probability"):
        assert words not in page.text.lower()


def test_the_splits_of_a_cross_validation_come_in_their_order(make_workdir, undrawn):
    splits = ("out_of_fold", "test_first_visit", "mine", "test")
    workdir = make_workdir(names=("jsl",), splits=splits)
    text = write_report(workdir, [], "Knees").read_text(encoding="utf-8")
    page = Page(text)
    found = [n for n in page.ids if n.startswith("results-") and not n.endswith("-heading")]
    assert found == [
        *("results-test", "results-test-first-visit", "results-out-of-fold", "results-mine")
    ]
    assert "without its subject's" in page.text


def test_further_sections_are_shown_with_tables_pictures_and_flow(make_workdir, undrawn):
    table = Table("Kappa & more", ("Model", "KL"), (("<net>", "0.1\n[0.0, 0.2]"),), ("A note.",))
    drawings = [
        Drawing("cohorts_kl", "Grades of both cohorts", Figure((2, 1))),
        Drawing("label_0", "A knee", np.zeros((9, 9, 3), np.uint8), "subject 7 & R"),
    ]
    flow = ([Box("Knees of the study", "12", ("3 <left>",))], [Box("A", "5"), Box("B", "4")])
    section = Section("Model selection", ("In brackets <b>",), (table,), drawings, flow)
    workdir = make_workdir(names=("jsl",))
    path = write_report(
        workdir, [], "Knees", opening=[section], extra_sections=[Section("Nothing more")]
    )
    page = Page(path.read_text(encoding="utf-8"))
    assert "#model-selection" in page.links
    assert {"model-selection", "nothing-more"} <= set(page.ids)
    for words in ("Kappa & more", "<net>", "[0.0, 0.2]", "A note.", "In brackets <b>", "7 & R"):
        assert words in page.text
    for words in ("Knees of the study", "3 <left>"):
        assert words in page.text
    assert {"Grades of both cohorts", "A knee"} <= set(page.alts)
    twice = Section("Again", drawings=[Drawing("test_confusion_oarsi", "x", Figure((1, 1)))])
    with pytest.raises(ValueError, match="two figures of the report"):
        write_report(workdir, [], "Knees", extra_sections=[twice])


@pytest.mark.parametrize("knees", [1, 2])
def test_few_knees_of_one_class_have_a_page_that_says_so(knees, make_workdir):
    workdir = make_workdir(names=("kl",), splits=("test",))
    table = random_predictions(1, names=("kl",)).head(knees).assign(kl=2)
    table.to_csv(workdir / "predictions" / "test.csv", index=False)
    write_metrics(workdir / "metrics.json", {"test": summarise(table, num_resamples=5)})
    (workdir / "metrics.jsonl").write_text('{"step": 1, "validation/kappa": NaN}\n')
    page = Page(write_report(workdir, [], "Few").read_text(encoding="utf-8"))
    assert "stand on 1 subject only" in page.text
    assert "undefined for these knees" in page.text
    assert "undefined" in page.cells
    assert "single point" in page.text


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

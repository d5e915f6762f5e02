import pandas as pd
import pytest

from knee_jax import papers
from knee_jax.report import comparison
from tests.report.test_page import Page


def estimate(value, n=50):
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": n}


@pytest.fixture
def results():
    """Of Table 3 of kpn: one row run, one failed, one run without a score, one not run."""
    scored = {"kl": {"accuracy": estimate(0.61), "rmse": estimate(0.8)}}
    scored["oarsi"] = {
        "accuracy": estimate(0.7),
        "rmse": {"value": None, "low": None, "high": None, "n": 3},
    }
    return {
        ("kpn.py:resnet50", ""): {"test": scored, "validation": {}},
        ("kpn.py:no_cl", ""): None,
        ("kpn.py:no_kpn", ""): {"validation": scored},
    }


def test_every_printed_number_has_ours_or_why_not(results):
    paper = papers.read("kpn/3")
    frame = comparison.compare(paper, results)
    assert len(frame) == len(paper.cells)
    assert frame["paper"].tolist() == paper.cells["value"].tolist()
    states = frame.set_index(["row", "target", "metric"])["state"]
    assert (states["Neither"].drop(("oarsi", "rmse")) == "run").all()
    assert states["Neither", "oarsi", "rmse"] == "absent"
    assert (states["KPN"] == "failed").all()
    assert (states["CL"] == "absent").all()
    assert (states["KPN and CL"] == "not run").all()
    ours = frame.set_index(["row", "target", "metric"]).loc[("Neither", "kl", "accuracy")]
    assert tuple(ours[["ours", "low", "high", "n"]]) == (0.61, 0.61 - 0.05, 0.61 + 0.05, 50)
    assert frame["ours"].notna().sum() == 3


def test_tables_have_paper_and_ours_side_by_side(results):
    accuracy, rmse = comparison.comparison_tables(comparison.compare(papers.read("kpn/3"), results))
    assert accuracy.title == "Accuracy: paper | ours"
    assert accuracy.header == ("", "KL", "OARSI average")
    assert accuracy.rows == (
        ("Neither", "0.708 | 0.610\n[0.560, 0.660]", "0.752 | 0.700\n[0.650, 0.750]"),
        ("KPN", "0.705 | failed", "0.761 | failed"),
        ("CL", "0.723 | absent", "0.750 | absent"),
        ("KPN and CL", "0.727 | -", "0.764 | -"),
    )
    assert rmse.rows[0] == ("Neither", "0.683 | 0.800\n[0.750, 0.850]", "0.585 | absent")


def test_models_of_an_ensemble_have_rows_of_their_own():
    ours = {"out_of_fold": {"kl": {"quadratic_kappa": estimate(0.5)}}}
    better = {"out_of_fold": {"kl": {"quadratic_kappa": estimate(0.6)}}}
    results = {("oarsi.py", "se_resnet50"): ours, ("oarsi.py", ""): better}
    (table,) = comparison.comparison_tables(comparison.compare(papers.read("oarsi/2"), results))
    cells = {row[0]: row[1] for row in table.rows}
    assert cells["SE-ResNet-50"].startswith("0.81 | 0.500")
    assert cells["Ensemble"].startswith("0.82 | 0.600")
    assert cells["SE-ResNeXt-50"] == "0.81 | -"
    assert cells["SE-ResNet-50, without KL"] == ""


def test_printed_intervals_and_other_systems_are_shown():
    ours = {"test": {"jsm": {"balanced_accuracy": estimate(0.7)}}}
    frame = comparison.compare(papers.read("oarsi/3"), {("oarsi.py", ""): ours})
    tables = {t.title: t for t in comparison.comparison_tables(frame)}
    balanced = tables["Balanced accuracy: paper | ours"]
    column = balanced.header.index("JSN M")
    ensemble, antony = balanced.rows
    assert ensemble[column] == "0.8066 | 0.700\n[0.650, 0.750]\npaper [0.7982, 0.8154]"
    assert (antony[0], antony[column]) == ("Antony 2018", "0.734 | -")
    assert set(frame.loc[frame["row"] == "Antony 2018", "state"]) == {"printed only"}
    assert [row[0] for row in tables["MSE: paper | ours"].rows] == ["Ensemble"]


def test_a_comparison_is_left_as_text_csv_and_page(results, tmp_path):
    paper = papers.read("kpn/3")
    frame = comparison.compare(paper, results)
    path = tmp_path / "new" / "table_3"
    text = comparison.write_comparison(path, paper, frame, ["Ours: of <phantom> knees."])
    assert path.with_suffix(".txt").read_text() == text + "\n"
    assert text.splitlines()[0].startswith("Zheng et al. 2021, Table 3: Ablation")
    assert "Paper: The text gives 0.703" in text
    back = pd.read_csv(path.with_suffix(".csv"), keep_default_na=False, dtype=str)
    assert back["paper"].tolist() == paper.cells["value"].tolist()
    assert back["ours"].tolist()[:2] == ["0.61", "0.8"]
    page = Page(path.with_suffix(".html").read_text())
    for words in ("0.708 | 0.610", "[0.560, 0.660]", "of <phantom> knees", "not a medical device"):
        assert words in page.text


def test_a_report_may_have_papers_beside_it(results):
    section = comparison.comparison_section(["kpn/3", "kpn/2"], results)
    assert [table.title.split(":")[0] for table in section.tables] == [
        *("Zheng et al. 2021, Table 3. Accuracy", "Zheng et al. 2021, Table 3. RMSE"),
        *("Zheng et al. 2021, Table 2. Accuracy", "Zheng et al. 2021, Table 2. RMSE"),
    ]
    # Rows that we have no number of are the paper's alone.
    assert all(" | -" not in cell for table in section.tables for row in table.rows for cell in row)
    assert any("0.703" in note for note in section.notes)


def test_printed_deviations_stand_beside_ours():
    """Of Panfilov et al. 2022; a run from before deviations were kept has none."""
    new = {"progression_any": {"roc_auc": estimate(0.75) | {"std": 0.0123}}}
    old = {"progression_any": {"roc_auc": estimate(0.75)}}
    results = {
        ("mri_progression.py:fc", ""): {"test": new},
        ("mri_progression.py:lstm", ""): {"test": old},
    }
    frame = comparison.compare(papers.read("mri_progression/1"), results)
    _, area = comparison.comparison_tables(frame)
    cells = dict(area.rows)
    assert cells["2D + FC, sagittal"] == "0.77 ± 0.01 | 0.750 ± 0.012\n[0.700, 0.800]"
    assert cells["2D + Bi-LSTM, sagittal"] == "0.76 ± 0.02 | 0.750\n[0.700, 0.800]"
    assert cells["2D + TRF, sagittal"] == "0.78 ± 0.01 | -"
    assert area.header == ("", "Progression, fast or slow")

"""The command, end to end; its pieces are tested in tests/metrics and tests/report."""

import numpy as np
import pandas as pd
import pytest

from tests.commands import run_here


@pytest.fixture
def predictions():
    """Of 40 knees of KL 0 and 40 of KL 2, of which the model grades four and eight wrongly."""
    truth = np.repeat([0, 1], 40)
    prediction = truth.copy()
    prediction[:4], prediction[-8:] = 1, 0
    subjects = [f"{i // 2:03d}" for i in range(80)]
    table = pd.DataFrame({"subject": subjects, "side": ["L", "R"] * 40, "visit": 0})
    table["kl0_vs_kl2"], table["kl0_vs_kl2_pred"] = truth, prediction
    table["kl0_vs_kl2_p0"] = np.where(prediction, 0.2, 0.8)
    table["kl0_vs_kl2_p1"] = 1 - table["kl0_vs_kl2_p0"]
    return table


def flags(folder):
    return (
        "knee_jax.readers",
        f"--predictions={folder / 'test.csv'}",
        f"--readers={folder / 'readers.csv'}",
        f"--out={folder / 'out'}",
    )


def test_readers_beside_a_model(predictions, tmp_path):
    """The reader has four knees wrong, two of them with the model; eight knees are not shown."""
    readers = predictions[["subject", "side"]].assign(A=2 * predictions["kl0_vs_kl2"])
    readers.loc[[2, 3, 4, 5], "A"] = 2
    readers["A_confidence"] = 0.75
    predictions.to_csv(tmp_path / "test.csv", index=False)
    readers.iloc[:72].to_csv(tmp_path / "readers.csv", index=False)
    done = run_here(*flags(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "72 knees of 36 subjects, each graded by A; 8 other knees" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("readers.txt", "readers.csv", "readers.html", "readers_confidence.png")
    }
    numbers = pd.read_csv(tmp_path / "out" / "readers.csv")
    values = numbers.set_index(["rater", "against", "metric"])["value"]
    assert values["model", "label", "accuracy"] == pytest.approx(68 / 72, rel=1e-5)
    assert values["A", "label", "specificity"] == pytest.approx(36 / 40)
    assert values["A", "model", "only_model_right"] == 2
    assert values["A", "model", "only_reader_right"] == 2
    assert (numbers["n"] == 72).all()


def test_a_mistake_is_told_in_one_line_and_nothing_is_written(predictions, tmp_path):
    predictions.to_csv(tmp_path / "test.csv", index=False)
    (tmp_path / "readers.csv").write_text("subject,side,A\n000,L,0\n000,R,\n")
    done = run_here(*flags(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"error: {tmp_path / 'readers.csv'}: row 2, subject 000, side R, has no grade of A"
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").touch()
    done = run_here(*flags(tmp_path))
    assert (
        done.stderr.splitlines()[-1] == f"error: --out={tmp_path / 'out'}: is a file; name a folder"
    )

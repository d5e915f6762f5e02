"""`knee-jax read`: from films to what readers agree on, by its page in a browser."""

import json
import shutil
import subprocess
import urllib.request

import cv2
import numpy as np
import pandas as pd
import pytest

from knee_jax.reading.study import Study
from tests.commands import command, run_here
from tests.reading.test_study import make

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


SHIFTS = {"Ann": 3, "Ben": 4}
"""Readers, and the grade that each gives first."""


def filled(path, readers=("Ann", "Ben"), number=12):
    """A study whose pictures are pictures, with readings of some."""
    knees = make(path.with_suffix(".plain"), number=number).knees()
    from knee_jax.reading.study import Knee, create

    rng = np.random.default_rng(0)
    made = []
    for row in knees.itertuples(index=False):
        good, data = cv2.imencode(".png", rng.integers(0, 255, (64, 64), np.uint8))
        assert good
        made.append(Knee(row.file, row.subject, row.side, row.visit, data.tobytes()))
    study = create(path, made, ("kl",), 0.25, 0)
    for shift, reader in enumerate(readers):
        study.join(reader)
        for place in range(study.place(reader, 0).number):
            study.read(reader, place, "kl", (place + shift) % 5)
    return study


def test_what_was_read_is_written(tmp_path):
    study = filled(tmp_path / "study.db")
    table = study.knees()[["file", "side"]].assign(kl_pred=1)
    table.to_csv(tmp_path / "predictions.csv", index=False)
    done = run_here(
        "knee_jax",
        "read",
        f"--study={tmp_path / 'study.db'}",
        f"--out={tmp_path / 'out'}",
        f"--predictions={tmp_path / 'predictions.csv'}",
    )
    assert (done.returncode, done.stderr) == (0, "")
    out = tmp_path / "out"
    readers = pd.read_csv(out / "readers.csv", dtype={"subject": str})
    assert list(readers.columns) == ["subject", "side", "visit", "Ann", "Ben"]
    agreement = pd.read_csv(out / "agreement.csv")
    assert set(agreement["second"]) == {"Ann", "Ben", "model"}
    page = (out / "agreement.html").read_text()
    assert "Ann, twice" in page
    differ = readers[["Ann", "Ben"]].assign(model=1).nunique(axis=1) > 1
    assert page.count("data:image/jpeg") == differ.sum() > 8
    # The readers' table is one that `knee-jax readers` takes.
    model = study.knees()[["subject", "side", "visit"]].assign(kl=1, kl_pred=1)
    for number in range(5):
        model[f"kl_p{number}"] = float(number == 1)
    model.to_csv(tmp_path / "model.csv", index=False)
    done = run_here(
        "knee_jax",
        "readers",
        f"--predictions={tmp_path / 'model.csv'}",
        f"--readers={out / 'readers.csv'}",
        f"--out={tmp_path / 'beside'}",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Ann" in done.stdout
    # Another copy takes Ben's, whom it does not know.
    other = filled(tmp_path / "other.db", readers=("Ann",))
    done = run_here("knee_jax", "read", f"--study={other.path}", f"--take={out / 'readings.csv'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "15 readings added; 15 left out, of readers who read here\n"
    assert set(Study(other.path).readers()) == {"Ann", "Ben"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--study=HERE/none.db"], "no such study"),
        (["HERE/empty", "--study=HERE/new.db"], "no files are in there"),
        (["--study=HERE/study.db", "--take=HERE/none.csv"], "no such table"),
        (
            ["--study=HERE/study.db", "--out=HERE/out", "--predictions=HERE/none.csv"],
            "no such table",
        ),
        (["--study=HERE/study.db", "--out=HERE/study.db"], "is a file"),
        (["--study=HERE/study.db", "--host=0.0.0.0"], "a token is needed"),
    ],
)
def test_what_cannot_be_done_is_told(tmp_path, monkeypatch, arguments, message):
    monkeypatch.delenv("KNEE_JAX_TOKEN", raising=False)
    (tmp_path / "empty").mkdir()
    make(tmp_path / "study.db")
    words = [word.replace("HERE", str(tmp_path)) for word in arguments]
    done = run_here("knee_jax", "read", *words)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "new.db").exists()


@pytest.mark.slow
def test_films_become_a_study(tmp_path):
    tree = tmp_path / "oai"
    assert (
        run_here("knee_jax", "phantom", f"--out={tree}", "--subjects=2", "--visit=0").returncode
        == 0
    )
    line, environment = command(
        "knee_jax", "read", tree, f"--study={tmp_path / 'study.db'}", "--port=0"
    )
    with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True) as process:
        said = []
        for text in process.stdout:
            said.append(text.strip())
            if text.startswith("http://"):
                break
        try:
            assert sum(each.startswith("refused: tables/") for each in said) == 5
            request = urllib.request.Request(
                f"{said[-1]}/readers",
                json.dumps({"name": "Ann"}).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request) as answer:
                joined = json.load(answer)
        finally:
            process.terminate()
    assert joined["number"] == 5  # Four knees, of which one comes twice.
    found = Study(tmp_path / "study.db").knees()
    assert sorted(found["side"]) == ["L", "L", "R", "R"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_two_readers_read_by_keys_alone(tmp_path):
    from playwright.sync_api import expect, sync_playwright

    study = filled(tmp_path / "study.db", readers=())
    line, environment = command("knee_jax", "read", f"--study={study.path}", "--port=0")
    serving = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True)
    with serving as process, sync_playwright() as driver:
        try:
            address = process.stdout.readline().strip()
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            pages = {}
            for reader in SHIFTS:
                page = pages[reader] = browser.new_page(viewport={"width": 390, "height": 780})
                page.set_default_timeout(20_000)
                page.goto(address)
                page.get_by_label("Your name").press_sequentially(reader)
                page.keyboard.press("Enter")
            for place in range(15):
                for reader, page in pages.items():
                    expect(page.locator("#where")).to_have_text(f"Knee {place + 1} of 15")
                    page.keyboard.press(str((place + SHIFTS[reader]) % 5))
            for page in pages.values():
                expect(page.locator("#saved")).to_have_text("All knees are read. Thank you.")
                wide = page.evaluate(
                    "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                )
                assert wide <= 0
            pages["Ann"].keyboard.press("ArrowLeft")
            expect(pages["Ann"].locator("#where")).to_have_text("Knee 14 of 15")
            pages["Ann"].screenshot(path=tmp_path / "read.png")
            browser.close()
        finally:
            process.terminate()
    found = study.readings()
    for reader, shift in SHIFTS.items():
        own = found[found["reader"] == reader].sort_values("place")
        assert own["value"].tolist() == [(place + shift) % 5 for place in range(15)]

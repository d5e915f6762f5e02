"""`knee-jax train`: every config, run as a user runs it."""

import errno
import importlib
import json
import pkgutil
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from knee_jax import configs, datasets
from knee_jax import targets as all_targets
from knee_jax.phantom.mri import write_mri_study
from knee_jax.targets import knee_shown
from knee_jax.targets.grades import GRADES
from knee_jax.targets.kinds import Classes
from tests.commands import run, run_here, run_here_well, run_well, train_flags

OARSI = (
    "--config.data.split=k_fold",
    "--config.data.test_dataset=phantom_most/tiny",
    "--config.augmentation.canvas=66",
)
SIAMESE = ("--config.data.parts=(2,1,1)", "--config.input.size=150", "--config.model.patch=99")
FIVE_GRADES = ("--config.data.parts=(2,1,1)", "--config.data.seed=2")
RUNS = {
    "joint_space_width.py": (),
    "kl.py": (),
    "kpn.py": (),
    "oarsi.py": OARSI,
    "siamese_gap.py:phantom,demo": SIAMESE,
}
"""Config → what a small run of it needs."""

VARIANTS = {
    "kpn.py:no_kpn,regression,demo": (),
    "oarsi.py:resnet18,gwap_hidden,demo": OARSI,
    "siamese_gap.py:phantom,resnet18,five_grades,ce,demo": FIVE_GRADES,
}
"""More of them, among the long tests; tests/config/test_configs.py sets up all others."""

MRI = "mri_progression.py:demo"
LOCALISER = "landmarks.py:demo"


def test_every_config_is_run():
    files = {
        f"{file.name}.py"
        for file in pkgutil.iter_modules(configs.__path__)
        if hasattr(importlib.import_module(f"knee_jax.configs.{file.name}"), "get_config")
    }
    assert {config.partition(":")[0] for config in (*RUNS, MRI, LOCALISER)} == files


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        # kpn's is `trained`, among the fast tests; the others, and rarer variants, later.
        *(pytest.param(*run, marks=pytest.mark.slow) for run in RUNS.items()),
        *(pytest.param(*run, marks=pytest.mark.long) for run in VARIANTS.items()),
    ],
)
def test_a_config_trains_evaluates_and_reports(config, changes, tmp_path, tiny_data_dir):
    done = run_well(*train_flags(tmp_path, tiny_data_dir, config, changes))
    assert "Traceback" not in done.stderr
    for name in ("config.json", "environment.json", "statistics.json", "report/index.html"):
        assert (tmp_path / name).stat().st_size > 0
    saved = json.loads((tmp_path / "config.json").read_text())
    predicted = all_targets.get_all(saved["targets"])
    names = [target.name for target in predicted]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    other = {"test_first_visit"} if saved["data"]["test_dataset"] else set()
    assert set(metrics) == {"validation", "test"} | other
    for split, targets in metrics.items():
        table = pd.read_csv(tmp_path / "predictions" / f"{split}.csv", dtype={"subject": str})
        assert not table.duplicated(["subject", "side", "visit"]).any()
        assert set(targets) >= {*names, *(["kl_ge_2"] if "kl" in names else [])}
        for target in predicted:
            known = target.is_known(table[target.name]).sum()
            assert targets[target.name][target.table_metrics[0]]["n"] == known > 0
    titles = (predicted[0].title, "95 % intervals", "index.html")
    assert all(title in done.stdout for title in titles)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    selection = saved["task"]["selection"]
    classes = all(isinstance(target, Classes) for target in predicted)
    by_loss = "minus_cross_entropy" if classes else "minus_loss"
    score = by_loss if selection == "loss" else selection
    assert {"train/loss", "train/images_per_s", f"validation/{score}"} <= set().union(*rows)
    account = json.loads((tmp_path / "knees.json").read_text())
    for split in ("validation", "test"):
        table = pd.read_csv(tmp_path / "predictions" / f"{split}.csv")
        assert account[split]["used"] == len(table)


@pytest.mark.slow
def test_progression_is_learnt_from_volumes_and_told_in_a_report(tmp_path, tiny_mri_data_dir):
    changes = (
        "--config.data.dataset=phantom_mri/tiny",
        "--config.data.split=site_hold_out",
        "--config.input.volume=(16,16,8)",
    )
    flags = train_flags(tmp_path, tiny_mri_data_dir, MRI, changes)
    run_well(*(flag for flag in flags if "input.size" not in flag))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for split in ("validation", "test"):
        table = pd.read_csv(tmp_path / "predictions" / f"{split}.csv")
        assert (table["site"] == "D").all() == (split == "test")
        assert metrics[split]["progression"]["accuracy"]["n"] == len(table) > 0
        found = metrics[split]["progression_any"]["average_precision"]
        labels = (table["progression"] > 0).to_numpy()
        scores = (table["progression_p1"] + table["progression_p2"]).to_numpy()
        assert found["value"] == pytest.approx(average_precision_score(labels, scores))
    groups = pd.read_csv(tmp_path / "subgroups.csv")
    assert {"kl_baseline", "sex"} & set(groups["attribute"])
    page = (tmp_path / "report" / "index.html").read_text()
    assert "ttention" in page
    assert "Subgroups" in page or "subgroups" in page
    # The same knees again, as series of files that no set has prepared.
    study = tmp_path / "series"
    write_mri_study(study, num_subjects=2, seed=9, shape=(52, 52, 40), progress=False)
    out = f"--out={tmp_path / 'graded'}"
    run_here_well("predict", study, f"--model={tmp_path}", out, "--workers=1")
    graded = pd.read_csv(tmp_path / "graded" / "predictions.csv")
    assert (graded["status"] == "graded").sum() == 4
    assert set(graded.loc[graded["status"] == "refused", "file"]) == {"tables"}


@pytest.mark.slow
def test_a_localiser_is_trained_exported_and_looks_at_files(tmp_path, tiny_data_dir):
    """On windows of a study that has landmark files, and of phantom films."""
    study = tiny_data_dir / "phantom_xray/tiny/1.1.0"
    changes = (
        "--config.data.dataset=study_windows/tiny",
        f"--config.data.manual_dir={study}",
        "--config.data.parts=(2,1,1)",
        "--config.epochs=2",
    )
    run_well(*train_flags(tmp_path / "run", tiny_data_dir, LOCALISER, changes))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for split in ("validation", "test"):
        table = pd.read_csv(tmp_path / "run" / "predictions" / f"{split}.csv")
        assert metrics[split]["knee_shown"]["accuracy"]["n"] == len(table)
        known = table["landmarks"].notna()
        assert (table["knee_shown"][known] == knee_shown.RIGHT).all()
        found = table.loc[known, [f"landmarks_{axis}55" for axis in "xy"]].to_numpy()
        true = table.loc[known, [f"landmarks_true_{axis}55" for axis in "xy"]].to_numpy()
        inside = np.isfinite(true).all(1)
        assert np.linalg.norm(found - true, axis=1)[inside].mean() < 160
        assert 0 < metrics[split]["landmarks"]["radial_error"]["value"] < 200
    model = tmp_path / "drawn.knee"
    run_here_well("export", tmp_path / "run", f"--out={model}", "--half")
    blank = tmp_path / "blank_R.png"
    cv2.imwrite(str(blank), np.random.default_rng(0).integers(0, 256, (99, 99), np.uint8))
    done = run_here(
        "knee_jax", "locate", blank, f"--model={model}", f"--out={tmp_path / 'located'}"
    )
    (row,) = pd.read_csv(tmp_path / "located" / "landmarks.csv").to_dict("records")
    assert row["status"] in ("refused", "located")
    assert done.returncode == (1 if row["status"] == "refused" else 0), done.stderr[-3000:]


def test_the_splits_share_no_subject_and_leave_no_labelled_knee_out(trained, tiny_data_dir):
    index = pd.read_csv(tiny_data_dir / "phantom_xray/tiny/1.1.0/index.csv", dtype={"subject": str})
    labelled = index[(index[list(GRADES)] >= 0).any(axis=1)]
    tables = {
        split: pd.read_csv(trained / "predictions" / f"{split}.csv", dtype={"subject": str})
        for split in ("validation", "test")
    }
    people = {split: set(table["subject"]) for split, table in tables.items()}
    assert not people["validation"] & people["test"]
    for split, table in tables.items():
        expected = labelled[labelled["subject"].isin(people[split])]
        assert len(table) == len(expected)
    counts = sum(map(len, people.values())) / labelled["subject"].nunique()
    assert 0.4 <= counts <= 0.6


@pytest.mark.slow
def test_evaluate_alone_repeats_the_numbers(trained, tmp_path, tiny_data_dir):
    workdir = shutil.copytree(trained, tmp_path / "run")
    (workdir / "metrics.json").unlink()
    flags = train_flags(workdir, tiny_data_dir, "kpn.py:demo", ())
    run_well(*flags, "--mode=evaluate")
    assert (workdir / "metrics.json").read_text() == (trained / "metrics.json").read_text()


def test_a_folder_of_another_run_is_refused(trained, tmp_path, tiny_data_dir):
    workdir = shutil.copytree(trained, tmp_path / "run")
    flags = train_flags(workdir, tiny_data_dir, "kpn.py:demo", ())
    other = run_here(*flags, "--config.model.depth=34")
    assert other.returncode == 1
    assert "another config; it differs in model.depth (10 there, 34 now)" in other.stderr
    # With the check of the config out of the way, the checkpoint still knows.
    (workdir / "config.json").unlink()
    other = run_here(*flags, "--config.model.depth=34")
    assert other.returncode == 1
    assert "the config of this command is not that of the run" in other.stderr
    (workdir / "manifest.json").unlink()
    other = run_here(*flags, "--config.model.depth=34")
    assert other.returncode == 1
    assert "is of another model" in other.stderr
    assert "Traceback" not in other.stderr


@pytest.fixture
def crops_dir(tmp_path):
    """A folder laid out as the published kneekl224, with a few knees of noise."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 20), ("val", 10)):
        for i in range(number):
            folder = tmp_path / "crops" / split / str(i % 5)
            folder.mkdir(parents=True, exist_ok=True)
            image = rng.integers(0, 256, (224, 224), np.uint8)
            cv2.imwrite(str(folder / f"{9000000 + 100 * (split == 'val') + i}L.png"), image)
    return tmp_path / "crops"


@pytest.mark.slow
def test_published_crops_are_graded(crops_dir, tmp_path):
    changes = ("--config.data.dataset=kneekl224", "--config.data.split=published")
    flags = train_flags(tmp_path / "run", tmp_path / "data", "kl.py:demo", changes)
    run_well(*flags, f"--config.data.manual_dir={crops_dir}")
    table = pd.read_csv(tmp_path / "run" / "predictions" / "validation.csv")
    assert sorted(table["subject"]) == [9000100 + i for i in range(10)]
    assert sorted(table["kl"]) == sorted(i % 5 for i in range(10))
    assert not (tmp_path / "run" / "predictions" / "test.csv").exists()

    other = train_flags(tmp_path / "other", tmp_path / "data", "kpn.py:demo", changes)
    done = run_here(*other)
    assert done.returncode == 1
    assert "20 of 20 train knees of kneekl224 have no landmarks" in done.stderr


MISTAKES = {
    "unknown variant": (["--config=configs/kpn.py:huge"], "no variant 'huge' in this config"),
    "mistyped field": (["--config.model.dept=18"], "dept"),
    "unknown flag": (["--workdirs=x"], "workdirs"),
    "no such config": (["--config=configs/hip.py"], "configs/hip.py: no such file"),
    "unknown name of a config": (["--config=kpm:demo"], "no config 'kpm'; did you mean 'kpn'?"),
    "unknown policy": (["--config.data.unlabelled=all"], "choose from none, natural, fixed"),
    "test knees twice": (
        ["--config.data.test_dataset=phantom_most/tiny"],
        "sets test knees aside: choose config.data.split = k_fold",
    ),
    "empty batch": (["--config.batch_size=0"], "batch_size = 0: a whole number of 1 or more"),
    "wrong type": (["--config.batch_size=many"], "batch_size"),
    "unknown data set": (["--config.data.dataset=oai"], "no data set is called 'oai'"),
    "unknown model": (["--config.model.name=vgg"], "vgg"),
    "unknown task": (["--config.task.name=segmentation"], "unknown task 'segmentation'"),
    "unknown split": (
        ["--config.data.split=random"],
        "choose from published, ratio, image_ratio, k_fold, group_k_fold, site_hold_out",
    ),
    "empty split": (["--config.data.split=published"], "leaves no knee for train"),
    "unknown weighting": (["--config.task.class_weights=sqrt"], "choose from prevalence, none"),
    "bad landmark preset": (["--config.model.landmarks=some"], "some"),
    "missing weights": (["--config.init_from=none.pth"], "none.pth"),
    "weights at home": (["--config.init_from=~/none.pth"], f"{Path.home()}/none.pth"),
    "folder as config": (["--config=configs/"], "configs/: is a folder; name a config"),
    "negative seed": (["--config.seed=-1"], "a whole number from 0 to 4294967295 is expected"),
    "no cluster": (["--distributed"], "--distributed: the other processes are not found"),
    "diverging": (
        [
            "--config.optimizer.learning_rate=10.0",
            "--config.optimizer.weight_decay=10.0",
            "--config.epochs=9",
        ],
        "training has diverged",
    ),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(*mistake, id=name, marks=pytest.mark.slow if name == "diverging" else ())
        for name, mistake in MISTAKES.items()
    ],
)
def test_a_mistake_is_told_in_one_line(change, message, tmp_path, tiny_data_dir):
    flags = train_flags(tmp_path, tiny_data_dir, "kpn.py:demo", change)
    done = run_here(*flags)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "metrics.json").exists()


def test_evaluating_where_nothing_was_trained_makes_nothing(tmp_path, tiny_data_dir):
    flags = train_flags(tmp_path / "run", tiny_data_dir, "kpn.py:demo", ())
    done = run_here(*flags, "--mode=evaluate")
    assert done.returncode == 1
    assert "holds no run" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_start_that_failed_does_not_claim_the_folder(tmp_path, tiny_data_dir):
    wrong = train_flags(tmp_path, tiny_data_dir, "kpn.py:demo", ("--config.data.split=random",))
    assert run(*wrong).returncode == 1
    assert not (tmp_path / "config.json").exists()


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    missing = ("--config.data.dataset=kneekl224", "--config.data.manual_dir=~/crops")
    flags = train_flags(Path("~/run"), Path("~/data"), "kl.py:demo", missing)
    done = run_here(*flags)
    assert done.returncode == 1
    assert f"{tmp_path}/crops: no such folder" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"run", "data"}


@pytest.mark.parametrize("torn", [b"", b"[]", b"{", b"\x00\x00", b"\xff", b"1"])
def test_a_torn_config_is_told_in_one_line(torn, tmp_path):
    (tmp_path / "config.json").write_bytes(torn)
    config = f"--config={tmp_path / 'config.json'}"
    given = run_here("knee_jax.main", config, f"--workdir={tmp_path}")
    there = run_here("knee_jax.main", "--config=kl:demo", f"--workdir={tmp_path}")
    for done in (given, there):
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert f"{tmp_path / 'config.json'}: " in done.stderr


def test_a_run_that_cannot_be_written_to_is_refused_at_once(trained, tiny_data_dir, monkeypatch):
    write = Path.write_bytes

    def write_bytes(self, content):
        if trained in self.parents:
            raise OSError(errno.EROFS, "Read-only file system")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    flags = train_flags(trained, tiny_data_dir, "kpn.py:demo", ())
    for more in ([], ["--mode=evaluate"]):
        done = run_here(*flags, *more)
        assert done.returncode == 1
        assert "cannot be written to (read-only file system)" in done.stderr


def test_temporary_folders_are_gone(tmp_path, tiny_data_dir, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    datasets.builder("phantom_xray/tiny", tiny_data_dir)
    datasets.builder("phantom_xray/tiny", tmp_path / "elsewhere")
    assert list((tmp_path / "temporary").iterdir()) == []

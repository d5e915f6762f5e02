"""All folds of all networks as one command, in turn and side by side."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from knee_jax.config.load import changed, parse
from knee_jax.configs import mri_progression, oarsi
from knee_jax.errors import UserError
from knee_jax.experiments import cross_validate
from knee_jax.targets.grades import GRADES
from tests.commands import run_here, run_well, train_flags
from tests.folders import losses

CHANGES = (
    "--mode=cv",
    "--config.data.split=k_fold",
    "--config.data.num_folds=2",
    "--config.data.test_dataset=phantom_most/tiny",
    "--config.augmentation.canvas=66",
    "--config.log_every=1",
    "--config.batch_size=8",
    "--config.optimizer.learning_rate=1e-4",
    # Weights of the classes are constants of a fold's own knees.
    "--config.task.class_weights=prevalence",
)
IDENTITY = ["cohort", "subject", "side", "visit"]


def read(path):
    return pd.read_csv(path, dtype={"subject": str})


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory, tiny_data_dir):
    """The ensemble of two networks, on one device."""
    workdir = tmp_path_factory.mktemp("cv")
    done = run_well(*train_flags(workdir, tiny_data_dir, "oarsi.py:demo", CHANGES))
    return workdir, done


@pytest.mark.slow
def test_every_labelled_knee_is_held_out_once(in_turn, tiny_data_dir):
    workdir, _ = in_turn
    index = read(tiny_data_dir / "phantom_xray/tiny/1.1.0/index.csv")
    labelled = index[(index[list(GRADES)] >= 0).all(axis=1)]
    for folder in (workdir, workdir / "se_resnet50", workdir / "se_resnext50"):
        table = read(folder / "predictions/out_of_fold.csv")
        assert not table.duplicated(IDENTITY).any()
        assert set(map(tuple, table[IDENTITY].values)) == set(map(tuple, labelled[IDENTITY].values))
    folds = [read(workdir / f"se_resnet50/fold_{k}/predictions/validation.csv") for k in (0, 1)]
    assert not set(folds[0]["subject"]) & set(folds[1]["subject"])


@pytest.mark.slow
def test_the_ensemble_is_the_mean_of_its_members(in_turn):
    workdir, _ = in_turn
    members = [
        read(workdir / f"{name}/fold_{k}/predictions/test.csv")
        for name in ("se_resnet50", "se_resnext50")
        for k in (0, 1)
    ]
    together = read(workdir / "predictions/test.csv")
    assert set(together["cohort"]) == {"phantom_most"}
    for column in together.filter(regex="_p[0-4]$").columns:
        expected = np.mean([table[column] for table in members], axis=0)
        np.testing.assert_allclose(together[column], expected, atol=2e-5)
    for table in members:
        pd.testing.assert_frame_equal(table[IDENTITY], together[IDENTITY])


@pytest.mark.slow
def test_the_report_and_the_metrics_hold_every_part(in_turn):
    workdir, done = in_turn
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert set(metrics) == {"out_of_fold", "test", "test_first_visit"}
    visits = read(workdir / "predictions/test.csv")["visit"]
    assert (
        metrics["test"]["kl"]["accuracy"]["n"] > metrics["test_first_visit"]["kl"]["accuracy"]["n"]
    )
    assert metrics["test_first_visit"]["kl"]["accuracy"]["n"] <= (visits == 0).sum()
    page = (workdir / "report/index.html").read_text()
    for text in ("se_resnet50", "se_resnext50", "phantom_most"):
        assert text in page
    for name in ("se_resnet50", "se_resnext50"):
        alone = json.loads((workdir / name / "metrics.json").read_text())
        assert set(alone) == set(metrics)
    assert "run 2 of 2" in done.stdout


@pytest.mark.slow
def test_a_fold_is_a_run_of_its_own(in_turn, tiny_data_dir):
    """The run that one network's fold makes by itself goes on in the folder that it has here."""
    workdir, _ = in_turn
    folder = workdir / "se_resnet50/fold_1"
    changes = [each for each in CHANGES if not each.startswith("--mode")]
    flags = train_flags(folder, tiny_data_dir, "oarsi.py:se_resnet50,demo", changes)
    run_well(*flags, "--mode=evaluate", "--config.data.fold=1")
    assert (folder / "report/index.html").exists()
    assert "Beside the paper" not in (folder / "report/index.html").read_text()
    # What its own network says of its held-out knees is what stands in the network's table.
    own = read(folder / "predictions/validation.csv")
    whole = read(workdir / "se_resnet50/predictions/out_of_fold.csv")
    assert_same_predictions(own, whole[whole["fold"] == 1].reset_index(drop=True), 1e-5)
    assert_held_out_by_their_own_networks(workdir / "se_resnet50")


def assert_held_out_by_their_own_networks(workdir):
    """A fold's table scores what its network scored on its held-out knees while it was trained."""
    whole, scores = read(workdir / "predictions/out_of_fold.csv"), []
    for k in (0, 1):
        table = read(workdir / f"fold_{k}/predictions/validation.csv")
        assert_same_predictions(table, whole[whole["fold"] == k].reset_index(drop=True), 1e-5)
        losses = [
            -np.log(table.filter(regex=f"^{g}_p[0-4]$").to_numpy()[range(len(table)), table[g]])
            for g in GRADES
        ]
        rows = map(json.loads, (workdir / f"fold_{k}/metrics.jsonl").read_text().splitlines())
        (logged,) = [r for r in rows if "validation/minus_cross_entropy" in r]
        scores.append(-np.mean(losses))
        assert logged["validation/minus_cross_entropy"] == pytest.approx(scores[-1], abs=1e-5)
    assert abs(scores[0] - scores[1]) > 1e-3


def assert_same_predictions(ours, theirs, tolerance):
    pd.testing.assert_frame_equal(ours[IDENTITY], theirs[IDENTITY])
    columns = theirs.filter(regex="_p[0-4]$").columns
    assert len(columns) == 29
    np.testing.assert_allclose(ours[columns], theirs[columns], atol=tolerance)


@pytest.mark.slow
def test_a_second_call_trains_nothing_and_ends_in_the_same_numbers(in_turn, tiny_data_dir):
    workdir, _ = in_turn
    before = (workdir / "metrics.json").read_text()
    (workdir / "metrics.json").unlink()
    done = run_well(*train_flags(workdir, tiny_data_dir, "oarsi.py:demo", CHANGES))
    assert done.stdout.count("resuming at step") == 4
    assert (workdir / "metrics.json").read_text() == before


@pytest.mark.long
def test_folds_side_by_side_learn_what_they_learn_in_turn(in_turn, tmp_path, tiny_data_dir):
    """Two folds on four devices, two for each; and a kill between their saves is made good."""
    flags = train_flags(tmp_path, tiny_data_dir, "oarsi.py:se_resnext50,demo", CHANGES)
    flags.append("--config.checkpoint_every=3")
    done = run_well(*flags, devices=4)
    assert "runs 1 to 2 of 2 together on 4 devices" in done.stdout
    alone = in_turn[0] / "se_resnext50"
    for k in (0, 1):
        ours, theirs = losses(tmp_path / f"fold_{k}"), losses(alone / f"fold_{k}")
        assert len(ours) == len(theirs) >= 5
        np.testing.assert_allclose(ours[:5], theirs[:5], atol=1e-4)
    assert not np.allclose(losses(tmp_path / "fold_0")[0], losses(tmp_path / "fold_1")[0])
    ours, theirs = (read(d / "predictions/out_of_fold.csv") for d in (tmp_path, alone))
    assert_same_predictions(ours, theirs, 2e-3)
    assert_held_out_by_their_own_networks(tmp_path)

    before = (tmp_path / "predictions/out_of_fold.csv").read_text()
    last = max((tmp_path / "fold_1/checkpoints").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(last)
    again = run_well(*flags, devices=4)
    assert f"resuming at step {(int(last.name) - 1) // 3 * 3} of {last.name}" in again.stdout
    assert (tmp_path / "predictions/out_of_fold.csv").read_text() == before


def test_networks_are_the_config_with_their_changes():
    networks = cross_validate.networks_of(parse(oarsi.get_config()))
    assert [config.model.options["arch"] for config in networks.values()] == [
        "se_resnet50",
        "se_resnext50_32x4d",
    ]
    for name, config in networks.items():
        assert config == parse(oarsi.get_config(name))
    assert list(cross_validate.networks_of(parse(oarsi.get_config("resnet18")))) == ["."]


def test_weights_of_networks_of_volumes_are_checked():
    config = parse(mri_progression.get_config("demo"))
    cross_validate.check_weights(config)
    with pytest.raises(UserError, match=r"none\.npz: no such file of weights"):
        cross_validate.check_weights(changed(config, {"init_from": "none.npz"}))


MISTAKES = {
    "no folds": ("kpn.py:demo", ("--mode=cv",), "--config.data.split=k_fold"),
    "too few folds": (
        "oarsi.py:demo",
        (*CHANGES, "--config.data.num_folds=0"),
        "config.data.num_folds = 0: a whole number of 2 or more",
    ),
    "weights of the second network": (
        "oarsi.py:demo",
        (*CHANGES, "--config.ensemble.se_resnext50.init_from=none.npz"),
        "none.npz: no such file of weights",
    ),
    "average": (
        "oarsi.py:demo",
        (*CHANGES, "--config.evaluation.average=median"),
        "choose from prob",
    ),
}


@pytest.mark.parametrize(("config", "changes", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_before_anything_is_trained(
    config, changes, message, tmp_path, tiny_data_dir
):
    done = run_here(*train_flags(tmp_path, tiny_data_dir, config, changes))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert message in done.stderr
    assert not list(tmp_path.glob("**/checkpoints"))

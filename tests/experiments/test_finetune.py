"""Fine-tuning: its recipe, the weights it begins from, and what it says at the end."""

import re

import numpy as np
import pandas as pd
import pytest

from knee_jax.cohort import held_out
from knee_jax.config import load
from knee_jax.configs import kl
from knee_jax.errors import UserError
from knee_jax.experiments import finetune
from knee_jax.metrics.comparison import Difference
from knee_jax.models import weights
from tests.commands import run_here, run_well

BEFORE = load.parse(kl.get_config("best"))


@pytest.mark.parametrize(
    ("number", "batch_size", "epochs"),
    [(20, 16, 30), (50, 16, 30), (500, 32, 30), (1000, 32, 20), (5000, 32, 4)],
)
def test_the_recipe_has_fewer_epochs_the_more_knees(number, batch_size, epochs):
    config = finetune.recipe(BEFORE, "mine", ["kl"], number)
    assert (config.batch_size, config.epochs) == (batch_size, epochs)
    assert (config.data.dataset, config.data.split) == ("mine", "ratio")
    assert (config.model, config.input, config.augmentation, config.evaluation) == (
        BEFORE.model,
        BEFORE.input,
        BEFORE.augmentation,
        BEFORE.evaluation,
    )
    steps = epochs * number * 3 / 5 / batch_size
    assert 0.5 <= config.optimizer.ema_decay <= min(0.995, max(0.5, 1 - 9 / steps))


def test_too_few_knees_are_refused():
    with pytest.raises(UserError, match=r"mine: has 19 knees with a label of kl; .* needs 20"):
        finetune.recipe(BEFORE, "mine", ["kl"], 19)


def test_other_targets_have_a_task_that_takes_them():
    config = finetune.recipe(BEFORE, "mine", ["kl", "jsm"], 100)
    assert (config.task.name, config.task.selection) == ("grading", "mean_accuracy")
    assert (config.augmentation.mirror, config.evaluation.mirror) == (0, False)
    config = finetune.recipe(BEFORE, "mine", ["jsw_medial"], 100)
    assert config.task.selection == "loss"


def test_weights_keep_the_heads_that_are_learnt(tmp_path):
    arrays = {
        f"params/{module}/kernel": np.full((2, 2), i, np.float32)
        for i, module in enumerate(("trunk", "head_kl", "head_jsm", "pool_jsm"))
    }
    path = finetune.write_initial(tmp_path, arrays, ["kl"], None)
    assert set(weights.read(path)) == {"params/trunk/kernel", "params/head_kl/kernel"}
    assert [each.name for each in tmp_path.iterdir()] == ["initial.npz"]


def test_layers_that_heads_share_are_kept():
    kept = {"trunk", "aggregator", "classifier_0", "head_kl", "pool_jsm"}
    assert {name for name in kept if finetune._is_kept(name, ["kl"])} == kept - {"pool_jsm"}


def test_a_run_keeps_the_weights_that_it_began_from(tmp_path):
    arrays = {"params/trunk/kernel": np.ones((2, 2), np.float32)}
    path = finetune.write_initial(tmp_path, arrays, ["kl"], None)
    assert finetune.write_initial(tmp_path, arrays, ["kl"], None) == path
    with pytest.raises(UserError, match="holds a run that began from other weights"):
        finetune.write_initial(
            tmp_path, {"params/trunk/kernel": arrays["params/trunk/kernel"] + 1}, ["kl"], None
        )
    np.testing.assert_array_equal(weights.read(path)["params/trunk/kernel"], np.ones((2, 2)))


def test_too_few_test_knees_are_said_to_be_too_few():
    nan = float("nan")
    found = [difference("quadratic_kappa", nan, nan)]
    assert finetune.verdict(found) == "80 test knees are too few to compare by quadratic_kappa."


def difference(metric, low, high, target="kl"):
    middle = (low + high) / 2
    return Difference(target, metric, 0.5, 0.5 + middle, middle, low, high, 80, "", float("nan"))


@pytest.mark.parametrize(
    ("low", "high", "metric", "words"),
    [
        (0.01, 0.05, "quadratic_kappa", "Fine-tuning made the model better: quadratic_kappa of kl"),
        (-0.05, -0.01, "quadratic_kappa", "Fine-tuning made the model worse"),
        (-0.01, 0.05, "quadratic_kappa", "No difference is shown on 80 test knees"),
        (0.01, 0.05, "rmse", "Fine-tuning made the model worse: rmse"),
        (-0.05, -0.01, "rmse", "Fine-tuning made the model better: rmse"),
    ],
)
def test_the_verdict_goes_by_the_interval(low, high, metric, words):
    found = [difference("accuracy", -1.0, -0.5), difference(metric, low, high)]
    assert finetune.verdict([*found, difference("roc_auc", 0.2, 0.3, "other")]).startswith(words)


@pytest.mark.parametrize(
    ("shipped", "known"),
    [
        pytest.param("", 20, marks=pytest.mark.slow),
        pytest.param("kl-kneekl224", 6000, marks=pytest.mark.long),
    ],
)
def test_a_model_is_trained_on_with_a_set(shipped, known, trained, tiny_data_dir, tmp_path):
    arguments = ("--data=phantom_most/tiny", f"--data_dir={tiny_data_dir}", "--epochs=1")
    where = ("--targets=kl", f"--workdir={tmp_path / 'run'}")
    done = run_well("knee_jax.finetune", shipped or trained, *arguments, *where)
    assert re.search(r"\d+ knees with a label of kl: 1 epochs in batches of 16", done.stdout)
    said = (tmp_path / "run" / "comparison.txt").read_text(encoding="utf-8")
    assert said in done.stdout
    assert re.search(r"^(No difference is shown|Fine-tuning made the model)", said, re.M)
    table = pd.read_csv(tmp_path / "run" / "comparison.csv")
    assert {"quadratic_kappa", "mae"} <= set(table["metric"])
    # The knees behind the weights are known to the run, and to what is exported of it.
    parts = held_out.learnt_by(tmp_path / "run")["part"]
    assert (parts == "initial").sum() > known


def test_what_cannot_be_done_is_said_in_one_line(tiny_data_dir, tmp_path):
    arguments = (f"--data_dir={tiny_data_dir}", f"--workdir={tmp_path / 'run'}")
    for words, said in (
        (("--data=phantom_xray/tiny",), "name one model"),
        (("no-such", "--data=phantom_xray/tiny"), "no-such: no model of that name"),
        (
            ("kl-kneekl224", "--data=phantom_xray/tiny", "--targets=progression"),
            "no knee has a label of progression",
        ),
        (("landmarks", "--data=phantom_xray/tiny"), "the localiser is not fine-tuned"),
    ):
        done = run_here("knee_jax", "finetune", *words, *arguments)
        assert done.returncode == 1
        assert re.fullmatch(f"error: .*{said}.*\n", done.stderr), done.stderr
        assert not (tmp_path / "run").exists()

"""Models that come with the project: each loads, has a card, and does what it says."""

import json
import re
import zipfile
from importlib import resources

import numpy as np
import pytest

import knee_jax
from knee_jax.errors import UserError
from knee_jax.inference import exported, models
from knee_jax.targets.places import Places
from tests.commands import run_well

MOST_BYTES = 20e6
MOST_BYTES_OF_LOCALISER = 5e6


def file_of(name):
    return resources.files("knee_jax.weights") / f"{name}{exported.SUFFIX}"


def card_of(name):
    with zipfile.ZipFile(file_of(name)) as archive:
        return archive.read(exported.CARD).decode()


def test_they_are_small_together():
    assert models.names()
    assert sum(file_of(name).stat().st_size for name in models.names()) <= MOST_BYTES
    assert file_of("landmarks").stat().st_size <= MOST_BYTES_OF_LOCALISER


def test_only_those_that_grade_are_proposed_for_it():
    for name in models.names():
        places = any(isinstance(target, Places) for target in knee_jax.load(name).targets)
        assert (name in models.graders()) == (not places)
    with pytest.raises(UserError) as told:
        models.find("landmark")
    proposed, _, for_locate = str(told.value).partition(" (")
    assert proposed.endswith("choose from " + ", ".join(models.graders()))
    assert for_locate == "for `knee-jax locate`: landmarks)"


@pytest.mark.parametrize("name", models.names())
def test_each_loads_predicts_and_has_a_card(name):
    model = knee_jax.load(name)
    images = np.random.default_rng(0).integers(0, 256, (2, model.side, model.side), np.uint8)
    predicted = model.predict(images, batch_size=2)
    for target in model.targets:
        found = predicted[target.name]
        if isinstance(target, Places):
            assert found.shape == (2, target.number, 3)
            assert ((found > 0) & (found < 1)).all()
        else:
            np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
            assert model.temperatures[target.name] > 0
    card = card_of(name)
    assert model.card == card == file_of(name).with_suffix(".md").read_text()
    for word in ("Intended use", "Training data", "Limits", "not a medical device", "licence"):
        assert word in card


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("name", ["kl-kneekl224"])
def test_real_knees_are_graded_as_the_card_says(name, real_data):
    # The card is of the network alone; the localiser refuses three of these crops.
    table = knee_jax.grade(name, [real_data / "kneekl224" / "val"], localise=False)
    truth = table["file"].str[0].astype(int)
    assert len(table) == 826
    accuracy = float((table["kl_pred"] == truth).mean())
    (told,) = re.findall(r"\| accuracy as shipped, .*\| ([\d.]+)", card_of(name))
    assert accuracy == pytest.approx(float(told), abs=0.005)
    error = float((table["kl_pred"] - truth).abs().mean())
    (told,) = re.findall(r"\| mean absolute error as shipped, grades \| ([\d.]+)", card_of(name))
    assert error == pytest.approx(float(told), abs=0.005)


@pytest.mark.long
@pytest.mark.real
def test_knees_that_early_detection_has_not_seen_are_told_as_its_card_says(real_data, tmp_path):
    """The file's own list of knees leaves the others out."""
    data, out = f"--data_dir={tmp_path / 'data'}", tmp_path / "scored"
    source = f"--manual_dir={real_data / 'kneekl224'}"
    run_well("knee_jax.prepare", "--dataset=kneekl224", source, data)
    run_well("knee_jax.evaluate", "early-kneekl224", "--data=kneekl224", data, f"--out={out}")
    (metrics,) = json.loads((out / "metrics.json").read_text()).values()
    found = metrics["kl0_vs_kl2"]
    assert found["accuracy"]["n"] == 883
    for name, words in (("accuracy", "accuracy"), ("roc_auc", "area under the ROC curve")):
        (told,) = re.findall(rf"^\| {words} \| ([\d.]+)", card_of("early-kneekl224"), re.M)
        assert found[name]["value"] == pytest.approx(float(told), abs=0.005)

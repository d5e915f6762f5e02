import pandas as pd
import pytest

from knee_jax.config.load import parse
from knee_jax.data import prepared
from knee_jax.datasets.prepare import prepare
from knee_jax.evaluation.evaluate import evaluate
from knee_jax.training.train import train


@pytest.fixture(scope="session")
def run(tmp_path_factory, tiny_data_dir):
    """A small run of kpn that was trained and evaluated, and its prepared set."""
    from knee_jax.configs import kpn

    config = kpn.get_config("demo")
    config.data.dataset = "phantom_xray/tiny"
    config.model.update({"depth": 10, "width": 8})
    config.update_from_flattened_dict(
        {"input.size": 64, "batch_size": 8, "evaluation.batch_size": 8}
    )
    config.update_from_flattened_dict(
        {"task.coherence.components": 3, "epochs": 1, "evaluation.num_resamples": 10}
    )
    workdir = tmp_path_factory.mktemp("inference") / "run"
    train(parse(config), workdir, tiny_data_dir)
    evaluate(parse(config), workdir, tiny_data_dir)
    return workdir, prepared.open_set(prepare("phantom_xray/tiny", tiny_data_dir))


@pytest.fixture(scope="session")
def test_knees(run):
    workdir, knees = run
    table = pd.read_csv(workdir / "predictions/test.csv", dtype={"subject": str})
    return table, knees.load(knees.find(table))


@pytest.fixture(scope="session")
def exported_file(run, tmp_path_factory):
    """The run's network in one file."""
    from knee_jax.inference import exported

    path = tmp_path_factory.mktemp("exported") / "kpn.knee"
    exported.write(run[0], path, card="# A card", facts={"made_for": "tests"})
    return path

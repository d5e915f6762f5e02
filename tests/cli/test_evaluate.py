"""Runs that predict the same are compared beside the mean of their probabilities."""

import numpy as np
import pandas as pd
import pytest

from knee_jax.cli.evaluate import Scored, _compare
from knee_jax.config.schema import Evaluation
from knee_jax.metrics.predictions import make_table


@pytest.fixture
def scored():
    """Two runs on 30 and 28 knees of the same set."""
    index = pd.DataFrame(
        {
            "subject": [f"S{n:02d}" for n in range(30)],
            "side": "R",
            "visit": "0",
            "cohort": "phantom",
            "site": "A",
            "kl": np.arange(30) % 5,
        }
    )
    made = []
    for seed, number in ((0, 30), (1, 28)):
        chances = np.random.default_rng(seed).dirichlet(np.ones(5), number)
        table = make_table(index.iloc[:number], {"kl": chances})
        settings = Evaluation(num_resamples=10)
        made.append(Scored(f"run_{seed}", table, settings, (), {}))
    return made


def test_the_mean_is_of_the_knees_that_all_have(scored, tmp_path, capsys):
    _compare(scored, tmp_path)
    table = pd.read_csv(tmp_path / "comparison.csv")
    found = table[table["metric"] == "accuracy"].set_index("row")
    assert list(found.index) == ["run_0", "run_1", "mean of all"]
    assert set(found["n"]) == {28}
    columns = [f"kl_p{n}" for n in range(5)]
    first, second = (each.table.iloc[:28] for each in scored)
    mean = (first[columns].to_numpy() + second[columns].to_numpy()).argmax(1)
    assert found["value"]["mean of all"] == pytest.approx((mean == first["kl"]).mean(), abs=1e-6)
    assert "mean of all" in capsys.readouterr().out


def test_there_is_no_mean_of_unlike_predictions(scored, tmp_path):
    early = scored[1].table[["subject", "side", "visit", "cohort", "kl"]].assign(site="A")
    early["kl0_vs_kl2"] = early["kl"] % 2
    chances = np.random.default_rng(2).dirichlet(np.ones(2), len(early))
    other = make_table(early, {"kl0_vs_kl2": chances})
    _compare([scored[0], Scored("grades", other, scored[1].settings, (), {})], tmp_path)
    assert "mean of all" not in set(pd.read_csv(tmp_path / "comparison.csv")["row"])

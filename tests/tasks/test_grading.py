import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pandas as pd
import pytest

from knee_jax.data.statistics import Statistics
from knee_jax.errors import UserError
from knee_jax.grades import GRADES, MISSING, NUM_CLASSES
from knee_jax.tasks import grading


def random_case(batch=24, seed=0):
    rng = np.random.default_rng(seed)
    outputs = {g: rng.normal(size=(batch, c)).astype(np.float32) for g, c in NUM_CLASSES.items()}
    grades = np.stack([rng.integers(-1, NUM_CLASSES[g], batch) for g in GRADES], 1)
    return outputs, {"grades": grades.astype(np.int8), "mask": rng.random(batch) < 0.8}


def random_statistics(seed=1):
    rng = np.random.default_rng(seed)
    counts = {g: rng.integers(1, 500, c).tolist() for g, c in NUM_CLASSES.items()}
    return Statistics(0.5, 0.2, counts)


def make(grades=GRADES, class_weights="prevalence"):
    config = ml_collections.ConfigDict({"grades": grades, "class_weights": class_weights})
    return grading.make(config, random_statistics())


def test_loss_equals_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    outputs, batch = random_case()
    expected = 0.0
    for i, grade in enumerate(GRADES):
        counts = torch.tensor(random_statistics().counts[grade], dtype=torch.float64)
        labels = torch.tensor(np.where(batch["mask"], batch["grades"][:, i], MISSING)).long()
        expected += torch.nn.functional.cross_entropy(
            torch.tensor(outputs[grade], dtype=torch.float64),
            labels,
            weight=counts.sum() / (len(counts) * counts),
            ignore_index=MISSING,
        )
    assert float(make().loss(outputs, batch)) == pytest.approx(float(expected), rel=1e-5)


def test_without_weights_every_knee_counts_alike():
    outputs, batch = random_case()
    known = batch["mask"] & (batch["grades"][:, 0] != MISSING)
    log_p = jax.nn.log_softmax(outputs["kl"])[np.flatnonzero(known), batch["grades"][known, 0]]
    loss = make(("kl",), "none").loss(outputs, batch)
    assert float(loss) == pytest.approx(-float(log_p.mean()), rel=1e-5)


def test_prevalence_weights_give_every_class_the_same_share():
    counts = [400, 50, 0, 550]
    weights = grading.prevalence_weights(counts)
    np.testing.assert_allclose(weights * counts, [250, 250, 0, 250])


def test_a_batch_without_labels_has_no_loss_and_a_finite_gradient():
    outputs, batch = random_case()
    batch["grades"][:] = MISSING
    loss, gradient = jax.value_and_grad(make().loss)(jax.tree.map(jnp.asarray, outputs), batch)
    assert float(loss) == 0
    assert all((np.asarray(g) == 0).all() for g in gradient.values())


def test_padded_knees_do_not_count():
    outputs, batch = random_case()
    task, kept = make(), batch["mask"]
    short = {g: v[kept] for g, v in outputs.items()}, {k: v[kept] for k, v in batch.items()}
    assert float(task.loss(outputs, batch)) == pytest.approx(float(task.loss(*short)), rel=1e-5)


def index_of(grades):
    identity = {"subject": "9000001", "side": "L", "visit": 0, "cohort": "oai", "site": "A"}
    return pd.DataFrame([identity | dict(zip(GRADES, row)) for row in grades])


def test_table_and_score():
    index = index_of([[0, 0, 0, 0, 0, 0, 0], [3, 1, 2, 1, 2, 0, -1], [4, 3, 3, 3, 3, 0, 3]])
    probabilities = {g: np.eye(c)[[0, 1, 2]] for g, c in NUM_CLASSES.items()}
    table = make().table(index, np.array([2, 0, 1]), probabilities)
    assert table["kl"].tolist() == [4, 0, 3]
    assert table["kl_pred"].tolist() == [0, 1, 2]
    assert table["kl_p1"].tolist() == [0, 1, 0]
    assert set(table.columns) >= {f"{g}_p{NUM_CLASSES[g] - 1}" for g in GRADES}
    # Right only: osfm and ostm of the third row, and jsl of the first; jsm counts two rows.
    assert make().score(table) == pytest.approx((0 + 0 + 1 / 3 + 0 + 1 / 3 + 1 / 3 + 0) / 7)


def test_probabilities_sum_to_one():
    outputs, _ = random_case()
    for values in make().probabilities(outputs).values():
        np.testing.assert_allclose(np.asarray(values).sum(1), 1, atol=1e-6)


def test_only_knees_with_a_grade_are_usable():
    index = index_of([[-1] * 7, [2] + [-1] * 6, [-1] * 6 + [1]])
    rows = np.arange(3)
    config = ml_collections.ConfigDict({"grades": ("kl",)})
    assert grading.usable(index, rows, config).tolist() == [1]
    config.grades = GRADES
    assert grading.usable(index, rows, config).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"grades": ("kl", "hip")}, "hip: choose from kl, osfl"),
        ({"grades": ()}, "names no grade: choose from kl"),
        ({"class_weights": "sqrt"}, "choose prevalence or none"),
    ],
)
def test_a_mistyped_field_is_named(kwargs, message):
    config = ml_collections.ConfigDict({"grades": ("kl",), "class_weights": "none"} | kwargs)
    with pytest.raises(UserError, match=message):
        grading.check(config)

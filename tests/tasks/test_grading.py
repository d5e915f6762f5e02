import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from knee_jax import targets as all_targets
from knee_jax.errors import UserError
from knee_jax.metrics import grade_coherence as coherence
from knee_jax.targets.grades import GRADES, MISSING, NUM_CLASSES
from knee_jax.tasks import grading
from tests.tasks import cases

CLASSES = {g: NUM_CLASSES[g] for g in GRADES}


def random_case(batch=24, seed=0):
    rng = np.random.default_rng(seed)
    outputs = {
        g: rng.normal(size=(batch, c)).astype(np.float32) for g in GRADES for c in (NUM_CLASSES[g],)
    }
    grades = np.stack([rng.integers(-1, NUM_CLASSES[g], batch) for g in GRADES], 1)
    return outputs, {"grades": grades.astype(np.int8), "mask": rng.random(batch) < 0.8}


def random_counts(seed=1):
    rng = np.random.default_rng(seed)
    return {g: rng.integers(1, 500, c).tolist() for g, c in CLASSES.items()}


NO_GRADES = np.empty((0, 7), np.int8)


def make(
    names=GRADES, class_weights="prevalence", mixture=None, grades=NO_GRADES, seed=0, **fields
):
    settings = cases.check(grading.Settings, names, class_weights=class_weights, **fields)
    labels = dict(zip(GRADES, grades.T))
    return settings.make(all_targets.get_all(names), random_counts(), labels, seed, mixture)


def loss_of(task, outputs, batch, epoch=2.0):
    return _loss(task, outputs, batch, epoch)[0]


# Run one by one, each operation would be compiled by itself.
@jax.jit
def _loss(task, outputs, batch, epoch):
    return cases.loss(task, outputs, batch, epoch, task.initial_validation_stats())


def test_loss_equals_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    outputs, batch = random_case()
    expected = 0.0
    for i, grade in enumerate(GRADES):
        counts = torch.tensor(random_counts()[grade], dtype=torch.float64)
        labels = torch.tensor(np.where(batch["mask"], batch["grades"][:, i], MISSING)).long()
        expected += torch.nn.functional.cross_entropy(
            torch.tensor(outputs[grade], dtype=torch.float64),
            labels,
            weight=counts.sum() / (len(counts) * counts),
            ignore_index=MISSING,
        )
    assert float(loss_of(make(), outputs, batch)) == pytest.approx(float(expected), rel=1e-5)


def test_without_weights_every_knee_counts_alike():
    outputs, batch = random_case()
    known = batch["mask"] & (batch["grades"][:, 0] != MISSING)
    log_p = jax.nn.log_softmax(outputs["kl"])[np.flatnonzero(known), batch["grades"][known, 0]]
    loss = loss_of(make(("kl",), "none"), outputs, batch)
    assert float(loss) == pytest.approx(-float(log_p.mean()), rel=1e-5)


def test_prevalence_weights_give_every_class_the_same_share():
    counts = [400, 50, 0, 550]
    weights = grading.prevalence_weights(counts)
    np.testing.assert_allclose(weights * counts, [250, 250, 0, 250])


def test_a_batch_without_labels_has_no_loss_and_a_finite_gradient():
    outputs, batch = random_case()
    batch["grades"][:] = MISSING
    loss, gradient = jax.jit(jax.value_and_grad(lambda x: loss_of(make(), x, batch)))(outputs)
    assert float(loss) == 0
    assert all((np.asarray(g) == 0).all() for g in gradient.values())


def test_padded_knees_do_not_count():
    outputs, batch = random_case()
    task, kept = make(), batch["mask"]
    short = {g: v[kept] for g, v in outputs.items()}, {k: v[kept] for k, v in batch.items()}
    whole = float(loss_of(task, outputs, batch))
    assert whole == pytest.approx(float(loss_of(task, *short)), rel=1e-5)


def index_of(grades):
    identity = {"subject": "9000001", "side": "L", "visit": 0, "cohort": "oai", "site": "A"}
    return pd.DataFrame([identity | dict(zip(GRADES, row)) for row in grades])


def test_table_and_score():
    index = index_of([[0, 0, 0, 0, 0, 0, 0], [3, 1, 2, 1, 2, 0, -1], [4, 3, 3, 3, 3, 0, 3]])
    probabilities = {g: np.eye(c)[[0, 1, 2]] for g, c in CLASSES.items()}
    table = make().table(index, np.array([2, 0, 1]), probabilities)
    assert table["kl"].tolist() == [4, 0, 3]
    assert table["kl_pred"].tolist() == [0, 1, 2]
    assert table["kl_p1"].tolist() == [0, 1, 0]
    assert set(table.columns) >= {f"{g}_p{NUM_CLASSES[g] - 1}" for g in GRADES}
    # Right only: osfm and ostm of the third row, and jsl of the first; jsm counts two rows.
    assert make().score(table) == pytest.approx((0 + 0 + 1 / 3 + 0 + 1 / 3 + 1 / 3 + 0) / 7)


def test_probabilities_sum_to_one():
    outputs, _ = random_case()
    for values in make().decode(outputs).values():
        np.testing.assert_allclose(np.asarray(values).sum(1), 1, atol=1e-6)


def test_only_knees_with_a_grade_are_usable():
    index = index_of([[-1] * 7, [2] + [-1] * 6, [-1] * 6 + [1]])
    settings = grading.Settings()
    assert settings.usable(index, all_targets.get_all(["kl"])).tolist() == [False, True, False]
    assert settings.usable(index, all_targets.get_all(GRADES)).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"names": ("kl", "hip")}, "unknown target 'hip'"),
        ({"names": ()}, "names no target: name at least one"),
        ({"names": ("kl", "kl")}, "names kl more than once"),
        ({"names": ("jsw_medial",)}, "selection = 'mean_accuracy': jsw_medial is no class"),
        ({"class_weights": "sqrt"}, "choose from prevalence, none"),
        ({"reduction": "max"}, "config.task.reduction = 'max': choose from sum, mean"),
        ({"selection": "kappa"}, "choose from mean_accuracy, loss"),
        ({"regression_weight": -1.0}, "config.task.regression_weight = -1.0: a number of 0 or"),
        ({"coherence": {"lambda": 1.0}}, "config.task.coherence has no field 'lambda': choose"),
        ({"coherence": {"weight": -1.0}}, "config.task.coherence.weight = -1.0"),
        ({"coherence": {"temperature": 0.0}}, "config.task.coherence.temperature = 0.0"),
        (
            {"coherence": {"weight": 1.0}},
            "config.targets lacks osfl, osfm, ostl, ostm, jsl, jsm: coherence",
        ),
    ],
)
def test_a_mistyped_field_is_named(kwargs, message):
    with pytest.raises(UserError, match=message):
        cases.check(grading.Settings, **({"names": ("kl",), "class_weights": "none"} | kwargs))


def test_the_settings_have_defaults():
    task = grading.Settings().make(all_targets.get_all(["kl"]), random_counts(), {}, 0)
    assert (task.mixture, task.coherence_weight, task.reduction) == (None, 0.0, "sum")


def random_mixture(seed=2, components=3, distance=1.0):
    rng = np.random.default_rng(seed)
    means = rng.uniform(0, distance, (components, coherence.DIMENSIONS))
    factors = np.tile(4 * np.eye(coherence.DIMENSIONS), (components, 1, 1))
    return coherence.Mixture(np.full(components, 1 / components), means, factors)


COHERENT = {"weight": 0.7, "temperature": 0.25, "warmup_epochs": 1}


def coherent(mixture=None, **fields):
    return make(mixture=mixture or random_mixture(), coherence=COHERENT, **fields)


def test_loss_with_coherence_is_equation_5():
    """In NumPy, with SciPy's normal densities; on labelled and unlabelled knees alike."""
    from scipy.special import logsumexp, softmax
    from scipy.stats import multivariate_normal

    outputs, batch = random_case()
    batch["grades"][:8] = MISSING
    mixture = random_mixture()
    codes = np.concatenate([softmax(outputs[g], axis=1) for g in GRADES], 1)[batch["mask"]]
    parts = [multivariate_normal.logpdf(codes, mean, np.eye(29) / 16) for mean in mixture.means]
    density = logsumexp(parts, axis=0) - np.log(3)
    expected = (np.logaddexp(0, -0.25 * density) / 0.25).mean()
    loss, scalars = cases.loss(coherent(), outputs, batch, 1.0)
    classification = loss_of(make(), outputs, batch)
    assert float(loss) == pytest.approx(float(classification) + 0.7 * expected, rel=1e-5)
    assert float(scalars["incoherence"]) == pytest.approx(expected, rel=1e-5)
    assert float(scalars["log_density"]) == pytest.approx(density.mean(), rel=1e-5)
    assert float(scalars["classification"]) == pytest.approx(float(classification))
    labelled = (batch["grades"] != MISSING).any(1)[batch["mask"]].mean()
    assert float(scalars["labelled"]) == pytest.approx(labelled)


@pytest.fixture(scope="module")
def compiled():
    """The loss with its gradient, compiled, the task an argument as in training."""

    @jax.jit
    def value_and_grad(task, outputs, batch, epoch):
        def loss(outputs):
            return cases.loss(task, outputs, batch, epoch)

        return jax.value_and_grad(loss, has_aux=True)(outputs)

    return value_and_grad


def test_warmup_leaves_out_the_incoherence_and_does_not_recompile(compiled):
    outputs, batch = random_case()
    warm, later = (compiled(coherent(), outputs, batch, jnp.float32(e)) for e in (0.5, 1.5))
    assert compiled._cache_size() == 1
    expected = jax.jit(jax.grad(lambda x: loss_of(make(), x, batch)))(outputs)
    for grade in GRADES:
        np.testing.assert_allclose(warm[1][grade], expected[grade], rtol=1e-6, atol=1e-8)
        assert not np.allclose(later[1][grade], expected[grade], atol=1e-4)
    assert float(warm[0][0]) == pytest.approx(float(warm[0][1]["classification"]))
    # Another batch, all of it unlabelled, and another mixture: still the same program.
    unlabelled = batch | {"grades": np.full_like(batch["grades"], MISSING)}
    (loss, _), gradient = compiled(coherent(random_mixture(9)), outputs, unlabelled, later[0][0])
    assert compiled._cache_size() == 1
    assert float(loss) > 0
    assert all(np.asarray(g)[batch["mask"]].any(1).all() for g in gradient.values())


def test_in_the_warmup_even_an_infinite_incoherence_adds_nothing(compiled):
    outputs, batch = random_case()
    task = coherent(random_mixture(distance=1e30))
    (loss, scalars), gradient = compiled(task, outputs, batch, jnp.float32(0.0))
    assert np.isinf(scalars["incoherence"])
    assert float(loss) == pytest.approx(float(loss_of(make(), outputs, batch)))
    assert all(np.isfinite(g).all() for g in gradient.values())
    (loss, _), _ = compiled(task, outputs, batch, jnp.float32(1.0))
    assert not np.isfinite(loss)


@pytest.mark.parametrize("labelled", [True, False])
def test_nan_shows_in_the_loss_unless_the_knee_is_masked(compiled, labelled):
    outputs, batch = random_case()
    if not labelled:
        batch["grades"][:] = MISSING
    clean = compiled(coherent(), outputs, batch, jnp.float32(2.0))
    for where, poisoned in ((~batch["mask"], False), (batch["mask"], True)):
        knee = int(np.flatnonzero(where)[0])
        bad = {g: v.copy() for g, v in outputs.items()}
        bad["jsm"][knee] = np.nan
        for epoch in (0.0, 2.0):
            (loss, _), gradient = compiled(coherent(), bad, batch, jnp.float32(epoch))
            assert np.isnan(loss) == poisoned
        if not poisoned:
            assert float(loss) == pytest.approx(float(clean[0][0]))
            assert all((np.asarray(g)[where] == 0).all() for g in gradient.values())
            jax.tree.map(np.testing.assert_allclose, gradient, clean[1])


def test_the_mean_over_the_grades_is_a_seventh_of_the_sum():
    outputs, batch = random_case()
    mean = loss_of(make(reduction="mean"), outputs, batch)
    assert float(mean) == pytest.approx(float(loss_of(make(), outputs, batch)) / 7, rel=1e-6)


def test_regression_adds_the_mean_squared_error():
    outputs, batch = random_case()
    rng = np.random.default_rng(4)
    values = {f"{g}_value": rng.normal(size=24).astype(np.float32) for g in GRADES}
    values["kl_value"][~batch["mask"]] = np.nan
    expected = 0.0
    for i, grade in enumerate(GRADES):
        known = batch["mask"] & (batch["grades"][:, i] != MISSING)
        expected += np.square(values[f"{grade}_value"] - batch["grades"][:, i])[known].mean()
    task = make(regression_weight=0.3)
    loss, scalars = cases.loss(task, outputs | values, batch, 0.0)
    assert float(scalars["regression"]) == pytest.approx(expected, rel=1e-5)
    classification = float(loss_of(task, outputs, batch))
    assert float(loss) == pytest.approx(classification + 0.3 * expected, rel=1e-5)
    gradient = jax.jit(jax.grad(lambda x: loss_of(task, x, batch)))(outputs | values)
    assert (gradient["kl_value"][~batch["mask"]] == 0).all()
    assert np.isfinite(gradient["kl_value"]).all()


def test_selection_by_loss_is_minus_the_mean_log_loss():
    from sklearn.metrics import log_loss

    rng = np.random.default_rng(0)
    index = index_of(np.stack([rng.integers(-1, NUM_CLASSES[g], 40) for g in GRADES], 1))
    probabilities = {g: rng.dirichlet(np.ones(c), 40) for g, c in CLASSES.items()}
    task = make(selection="loss")
    table = task.table(index, np.arange(40), probabilities)
    expected = [
        log_loss(
            index[g][index[g] >= 0], probabilities[g][index[g] >= 0], labels=range(NUM_CLASSES[g])
        )
        for g in GRADES
    ]
    assert task.score(table) == pytest.approx(-np.mean(expected))
    assert task.score_name == "minus_cross_entropy"
    assert make().score_name == "mean_accuracy"
    assert make(("jsw_medial",), selection="loss").score_name == "minus_loss"
    certain = {g: np.eye(c)[np.zeros(40, int)] for g, c in CLASSES.items()}
    assert np.isfinite(task.score(task.table(index, np.arange(40), certain)))


def test_table_holds_both_log_densities():
    index = index_of([[0] * 7, [3, 1, 2, 1, 2, 0, -1], [4, 3, 3, 3, 3, 0, 3]])
    probabilities = {g: np.eye(c)[[0, 1, 2]] for g, c in CLASSES.items()}
    mixture = random_mixture()
    assert "coherence_given" not in make().table(index, np.arange(3), probabilities)
    table = coherent(mixture).table(index, np.array([2, 1, 0]), probabilities)
    given = coherence.log_density_on_host(
        mixture, coherence.one_hot(index[list(GRADES)])[[2, 1, 0]]
    )
    np.testing.assert_allclose(table["coherence_given"], given)
    assert np.isnan(table["coherence_given"]).tolist() == [False, True, False]
    codes = np.concatenate([probabilities[g] for g in GRADES], 1)
    predicted = coherence.log_density_on_host(mixture, codes)
    np.testing.assert_allclose(table["coherence_predicted"], predicted)


def test_rounding_in_the_file_hardly_moves_the_density(tmp_path):
    """Probabilities have six digits in a predictions table."""
    rng = np.random.default_rng(0)
    index = index_of(np.zeros((50, 7), int))
    probabilities = {
        g: rng.dirichlet(np.full(c, 0.2), 50) for g in GRADES for c in (NUM_CLASSES[g],)
    }
    mixture = random_mixture()
    table = coherent(mixture).table(index, np.arange(50), probabilities)
    table.to_csv(tmp_path / "t.csv", index=False, float_format="%.6g")
    read = pd.read_csv(tmp_path / "t.csv")
    columns = [f"{g}_p{c}" for g in GRADES for c in range(NUM_CLASSES[g])]
    again = coherence.log_density_on_host(mixture, read[columns].to_numpy())
    np.testing.assert_allclose(again, read["coherence_predicted"], atol=5e-3)


def test_the_mixture_is_fitted_to_the_training_knees_or_given():
    rng = np.random.default_rng(0)
    grades = np.stack([rng.integers(0, NUM_CLASSES[g], 40) for g in GRADES], 1).astype(np.int8)
    settings = {"weight": 1.0, "components": 2, "sigma": 0.3, "replicas": 2}
    task = make(grades=grades, seed=3, coherence=settings)
    expected = coherence.fit(grades, num_components=2, sigma=0.3, num_replicas=2, seed=3)
    jax.tree.map(np.testing.assert_array_equal, task.mixture, expected)
    given = make(seed=3, coherence=settings, mixture=expected)
    assert given.mixture is expected
    with pytest.raises(UserError, match=r"lower config\.task\.coherence\.components"):
        make(seed=3, coherence=settings)


def test_a_measured_value_has_its_squared_error_in_units_of_its_scale():
    (width,) = all_targets.get_all(["jsw_medial"])
    task = make(("jsw_medial",), selection="loss")
    rng = np.random.default_rng(0)
    outputs = {"jsw_medial": rng.normal(size=(12, 1)).astype(np.float32)}
    truth = rng.uniform(1, 7, 12).astype(np.float32)
    truth[:3] = np.nan
    mask = np.arange(12) < 10
    loss, parts = task.loss(outputs, {"jsw_medial": truth}, mask, 0.0, {})
    known = mask & np.isfinite(truth)
    values = width.centre + width.scale * outputs["jsw_medial"][:, 0]
    expected = np.square((values - truth) / width.scale)[known].mean()
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(parts["measurement"]) == pytest.approx(expected, rel=1e-5)
    assert float(parts["labelled"]) == pytest.approx(7 / 10)
    gradient = jax.grad(lambda x: task.loss(x, {"jsw_medial": truth}, mask, 0.0, {})[0])(outputs)
    assert (np.asarray(gradient["jsw_medial"])[~known] == 0).all()
    assert np.isfinite(gradient["jsw_medial"]).all()
    np.testing.assert_allclose(task.decode(outputs)["jsw_medial"], values, rtol=1e-6)
    # Beside a grade, each has its own loss.
    both = make(("kl", "jsw_medial"), "none", selection="loss")
    kl = rng.normal(size=(12, 5)).astype(np.float32)
    grades = rng.integers(0, 5, 12)
    total, _ = both.loss(outputs | {"kl": kl}, {"jsw_medial": truth, "kl": grades}, mask, 0.0, {})
    entropy = -np.asarray(jax.nn.log_softmax(kl))[np.arange(12), grades][mask].mean()
    assert float(total) == pytest.approx(expected + entropy, rel=1e-5)


def test_a_measured_value_is_selected_by_its_error():
    task = make(("jsw_medial",), selection="loss")
    index = index_of([[0] * 7] * 3).assign(jsw_medial=[4.0, np.nan, 2.0])
    table = task.table(index, np.arange(3), {"jsw_medial": np.array([5.5, 1.0, 2.0])})
    assert table["jsw_medial_pred"].tolist() == [5.5, 1.0, 2.0]
    assert table["kl_baseline"].tolist() == [0, 0, 0]
    assert task.score(table) == pytest.approx(-0.5)


def test_label_smoothing_equals_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    outputs, batch = random_case()
    task = make(("kl",), class_weights="none", label_smoothing=0.1)
    labels = np.where(batch["mask"], batch["grades"][:, 0], MISSING)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(outputs["kl"], dtype=torch.float64),
        torch.tensor(labels).long(),
        ignore_index=MISSING,
        label_smoothing=0.1,
    )
    assert float(loss_of(task, outputs, batch)) == pytest.approx(float(expected), rel=1e-5)


def test_the_ordinal_loss_penalises_probability_by_its_distance():
    outputs, batch = random_case()
    total, number = 0.0, 0
    penalties = [0, 4, 6, 8, 10]
    for logits, label, counts in zip(outputs["kl"], batch["grades"][:, 0], batch["mask"]):
        if not counts or label == MISSING:
            continue
        number += 1
        p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        total += sum((penalties[abs(k - label)] * p[k]) ** 2 for k in range(5))
    only = make(("kl",), classification_weight=0.0, ordinal_weight=1.0)
    assert float(loss_of(only, outputs, batch)) == pytest.approx(total / number, rel=1e-5)
    plain = float(loss_of(make(("kl",)), outputs, batch))
    both = float(loss_of(make(("kl",), ordinal_weight=0.5), outputs, batch))
    assert both == pytest.approx(plain + 0.5 * total / number, rel=1e-5)

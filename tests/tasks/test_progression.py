import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from knee_jax import targets, tasks
from knee_jax.errors import UserError
from knee_jax.targets.grades import MISSING
from knee_jax.tasks import one_target, progression
from knee_jax.tasks.progression import focal_loss
from tests.tasks import cases

TARGET = "progression"
EPOCH = jnp.float32(3.0)
BATCH = 24


def make(**fields):
    settings = cases.check(progression.Settings, (TARGET,), **fields)
    return settings.make(targets.get_all([TARGET]), {}, {}, 0)


def random_case(seed, scale=3.0):
    """Logits and batch, with knees of no class, and masked ones whose logits are NaN."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=scale, size=(BATCH, 3)).astype(np.float32)
    mask = rng.random(BATCH) < 0.8
    logits[~mask] = np.nan
    label = rng.integers(-1, 3, BATCH).astype(np.int8)
    return {TARGET: logits}, {TARGET: label, "mask": mask}


@jax.jit
def compiled(task, outputs, batch):
    def loss(outputs):
        return task.loss(outputs, batch, batch["mask"], EPOCH, {})

    return jax.value_and_grad(loss, has_aux=True)(outputs)


def loop(logits, label, mask, gamma):
    """Lin et al. 2017, eq. 4, knee by knee in float64."""
    losses = []
    for row, c in zip(logits.astype(np.float64)[mask & (label >= 0)], label[mask & (label >= 0)]):
        p = np.exp(row - row.max())
        p = p[c] / p.sum()
        losses.append(-((1 - p) ** gamma) * np.log(p))
    return np.mean(losses)


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_the_loss_and_its_gradient_are_pytorchs(seed, gamma):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    outputs, batch = random_case(seed)
    (loss, _), gradient = compiled(make(focal_gamma=float(gamma)), outputs, batch)
    assert float(loss) == pytest.approx(
        loop(outputs[TARGET], batch[TARGET], batch["mask"], gamma), rel=1e-5
    )
    kept = batch["mask"] & (batch[TARGET] != MISSING)
    theirs = torch.tensor(outputs[TARGET][kept], dtype=torch.float64, requires_grad=True)
    label = torch.tensor(batch[TARGET][kept].astype(np.int64))
    entropy = torch.nn.functional.cross_entropy(theirs, label, reduction="none")
    reference = ((1 - torch.exp(-entropy)) ** gamma * entropy).mean()
    reference.backward()
    assert float(loss) == pytest.approx(float(reference.detach()), rel=1e-5)
    expected = np.zeros((BATCH, 3))
    expected[kept] = theirs.grad
    np.testing.assert_allclose(gradient[TARGET], expected, atol=1e-6)


def test_without_gamma_it_is_cross_entropy():
    outputs, batch = random_case(5)
    (loss, parts), _ = compiled(make(focal_gamma=0), outputs, batch)
    assert float(loss) == float(parts["cross_entropy"])
    (focal, others), _ = compiled(make(), outputs, batch)
    assert float(others["cross_entropy"]) == float(loss)
    assert 0 < float(focal) < float(loss)


def test_numerical_and_analytical_gradients_agree():
    logits = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    classes = jnp.array([0, 1, 2, 0, 1, 2])

    def mean(logits):
        return focal_loss(jax.nn.log_softmax(logits), classes, 2.0).mean()

    check_grads(mean, (logits,), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_what_is_masked_or_of_no_class_counts_nowhere():
    outputs, batch = random_case(1)
    (loss, parts), gradient = compiled(make(), outputs, batch)
    assert np.isfinite([loss, *parts.values()]).all()
    kept = batch["mask"] & (batch[TARGET] != MISSING)
    assert (np.asarray(gradient[TARGET])[~kept] == 0).all()
    assert (np.asarray(gradient[TARGET])[kept] != 0).any(axis=1).all()
    other = {TARGET: np.where(kept[:, None], outputs[TARGET], np.float32(7.0))}
    assert float(compiled(make(), other, batch)[0][0]) == float(loss)


def test_nan_in_a_knee_that_counts_shows_labelled_or_not():
    outputs, batch = random_case(2)
    for label in (0, MISSING):
        knee = np.flatnonzero(batch["mask"] & (batch[TARGET] == label))[0]
        bad = {TARGET: outputs[TARGET].copy()}
        bad[TARGET][knee, 1] = np.nan
        assert np.isnan(compiled(make(), bad, batch)[0][0])


def test_without_a_labelled_knee_the_loss_is_zero():
    outputs, batch = random_case(3)
    (loss, _), gradient = compiled(make(), outputs, batch | {TARGET: np.full(BATCH, MISSING)})
    assert float(loss) == 0
    assert (np.asarray(gradient[TARGET]) == 0).all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("size", [50.0, 1e4, 1e30])
def test_extreme_logits_have_finite_losses_and_gradients(size, gamma):
    outputs, batch = random_case(4)
    signs = np.sign(np.random.default_rng(0).normal(size=(BATCH, 3)))
    outputs = {TARGET: (size * signs).astype(np.float32)}
    (loss, parts), gradient = compiled(make(focal_gamma=gamma), outputs, batch)
    assert np.isfinite([loss, *parts.values()]).all()
    assert np.isfinite(gradient[TARGET]).all()


# ---- Tables and scores ----


def test_scores_are_scikit_learns():
    from sklearn import metrics as sk

    rng = np.random.default_rng(0)
    label, p = rng.integers(-1, 3, 80), rng.dirichlet(np.ones(3), 80)
    known = label >= 0
    positive, risk = label[known] > 0, p[known, 1:].sum(1)
    expected = {
        "average_precision": sk.average_precision_score(positive, risk),
        "roc_auc": sk.roc_auc_score(positive, risk),
        "accuracy": sk.accuracy_score(label[known], p[known].argmax(1)),
        "loss": -sk.log_loss(label[known], p[known], labels=range(3)),
    }
    assert set(expected) == set(one_target.SELECTIONS)
    for selection, value in expected.items():
        task = make(selection=selection)
        assert task.score(cases.table_of(task, p, progression=label)) == pytest.approx(value)
    assert make().score_name == "average_precision"
    assert make(selection="loss").score_name == "minus_cross_entropy"


def test_tables_tell_what_is_known_of_a_knee():
    task = make()
    index = cases.index_of(
        progression=[0, 2, MISSING], kl=1, age=[50.0, 60.0, np.nan], sex=["F", "M", "F"]
    )
    table = task.table(index, np.array([2, 1]), {TARGET: np.eye(3)[[1, 0]]})
    assert table[TARGET].tolist() == [MISSING, 2]
    assert table[f"{TARGET}_pred"].tolist() == [1, 0]
    assert table["kl_baseline"].tolist() == [1, 1]
    assert table["sex"].tolist() == ["F", "M"]
    assert "bmi" not in table
    assert (task.targets, task.mixture) == ((TARGET,), None)
    assert task.initial_validation_stats() == task.validation_stats(table) == {}


def test_probabilities_are_those_of_the_logits():
    logits = np.random.default_rng(0).normal(size=(5, 3))
    found = make().decode({TARGET: jnp.asarray(logits, jnp.bfloat16)})[TARGET]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)


# ---- From a config ----


def test_knees_of_a_class_are_usable():
    index, own = cases.index_of(progression=[0, MISSING, 2, 1]), targets.get_all([TARGET])
    settings = progression.Settings()
    assert settings.usable(index, own).tolist() == [True, False, True, True]
    assert not settings.usable(index.drop(columns=TARGET), own).any()


def test_parts_need_what_they_are_for():
    index, own = cases.index_of(progression=[0, 1, 2, 0, 1]), targets.get_all([TARGET])

    def check_part(part, rows):
        progression.Settings().check_part(part, index.iloc[rows], own)

    check_part("train", [0, 1, 2])
    check_part("validation", [0, 1])
    check_part("test", [0])
    with pytest.raises(UserError, match="train part has no knee of slow, "):
        check_part("train", [0, 1])
    with pytest.raises(UserError, match="validation part no knee is other than none, "):
        check_part("validation", [0, 3])
    with pytest.raises(UserError, match="validation part no knee is none, "):
        check_part("validation", [1, 2])


def test_a_config_without_the_optional_fields_is_the_papers():
    task = make()
    assert float(task.focal_gamma) == 2.0
    assert task.selection == "average_precision"
    assert [leaf.dtype for leaf in jax.tree.leaves(task)] == [np.float32]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"names": ("kl",)}, "targets = .*learns a target of its own classes"),
        ({"names": ()}, "targets = .*has one target"),
        ({"selection": "kappa"}, "task.selection = 'kappa': choose from accuracy, "),
        ({"focal_gamma": -1.0}, "task.focal_gamma = -1.0: a number of 0 or more"),
        ({"focal_gamma": "2"}, "task.focal_gamma = '2'"),
        ({"class_weights": "prevalence"}, "task has no field 'class_weights'"),
        ({"data": {"unlabelled": "natural"}}, "data.unlabelled = 'natural' has no meaning"),
        ({"data": {"partially_labelled": "drop"}}, "data.partially_labelled = 'drop' has no"),
    ],
)
def test_what_has_no_meaning_is_named(fields, message):
    with pytest.raises(UserError, match=rf"config\.{message}"):
        cases.check(progression.Settings, **({"names": (TARGET,)} | fields))


def test_what_tasks_share_is_no_task():
    with pytest.raises(
        UserError, match=r"choose from early_detection, grading, landmarks, progression$"
    ):
        tasks.find("one_target")


def test_label_smoothing_gives_every_class_its_own_focal_loss():
    log_p = jax.nn.log_softmax(jnp.array([[2.0, -1.0, 0.5], [0.0, 0.3, 0.1]]))
    classes = jnp.array([0, 2])
    of_each = np.stack(
        [np.asarray(focal_loss(log_p, jnp.full(2, c), 2.0)) for c in range(3)], axis=1
    )
    expected = 0.9 * of_each[[0, 1], [0, 2]] + 0.1 * of_each.mean(1)
    smoothed = focal_loss(log_p, classes, 2.0, 0.1)
    np.testing.assert_allclose(smoothed, expected, rtol=1e-6)

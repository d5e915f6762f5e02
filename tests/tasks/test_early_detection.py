import dataclasses
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knee_jax import targets
from knee_jax.errors import UserError
from knee_jax.targets.grades import GRADES, MISSING
from knee_jax.tasks import early_detection
from knee_jax.tasks.early_detection import partition
from tests.commands import REPOSITORY
from tests.tasks import cases

BINARY, FIVE = "kl0_vs_kl2", "kl"
NUM_CLASSES = {BINARY: 2, FIVE: 5}
EQUATIONS, REDUCTIONS = ("sensible", "literal"), ("mean", "sum")
KL_OF_CLASS = {BINARY: (0, 2), FIVE: (0, 1, 2, 3, 4)}
BATCH = 32
LATER = jnp.float32(3.0)


def settings_of(target=BINARY, loss="hybrid", selection="accuracy", data=None, **hybrid):
    changes = {"loss": loss, "selection": selection, "hybrid": hybrid}
    return cases.check(early_detection.Settings, (target,), data, **changes)


def make(target=BINARY, **fields):
    return settings_of(target, **fields).make(targets.get_all([target]), {}, {}, 0)


def grades_of(classes, target):
    """Grades [batch, 7] whose KL gives the classes; of none, KL 1 or unread by turns."""
    rng = np.random.default_rng(0)
    grades = rng.integers(0, 4, (len(classes), len(GRADES)))
    for i, c in enumerate(classes):
        nobodys = (1 if target == BINARY else MISSING, MISSING)[i % 2]
        grades[i, 0] = nobodys if c == MISSING else KL_OF_CLASS[target][c]
    return grades.astype(np.int8)


def random_case(seed, target=BINARY, batch=BATCH):
    """Logits, batch and stats; few or no knees of some classes, ties, and masked NaN."""
    rng = np.random.default_rng(seed)
    number = NUM_CLASSES[target]
    shares = rng.dirichlet(np.full(number, 0.5))
    classes = rng.choice(number, batch, p=shares)
    classes[rng.random(batch) < 0.1 * (seed % 3)] = MISSING
    logits = rng.normal(scale=rng.choice([0.3, 2, 20]), size=(batch, number)).astype(np.float32)
    if seed % 4 == 0:
        logits = np.round(logits)
    if seed % 5 == 0:
        logits[batch // 2 :] = logits[: batch - batch // 2]
    mask = rng.random(batch) < rng.choice([0.1, 0.6, 1.0])
    logits[~mask] = np.nan
    stats = {"confidence": rng.uniform(0.3, 1, number).astype(np.float32)}
    if seed % 7 == 0:
        stats["confidence"][0] = 1.0
    return {target: logits}, {"grades": grades_of(classes, target), "mask": mask}, stats


# ---- The reference: the paper's equations, knee by knee, in float64 ----


def subset_sizes(number, shares):
    """Section II-B and `partition`'s docstring."""
    high_share, _, low_share = (share / sum(shares) for share in shares)
    low = 0
    if number >= 3 and low_share > 0:
        low = max(1, math.floor(low_share * number + 0.5 + 1e-9))
    high = min(math.floor(high_share * number + 0.5 + 1e-9), number - low)
    return high, number - high - low, low


def reference_subsets(log_c, classes, counted, shares):
    subsets = {"high": [], "medium": [], "low": []}
    for k in sorted(set(classes[counted])):
        members = [s for s in range(len(classes)) if counted[s] and classes[s] == k]
        members.sort(key=lambda s: -log_c[s])  # Stable: the earlier of equal ones first.
        high, medium, _ = subset_sizes(len(members), shares)
        subsets["high"] += members[:high]
        subsets["medium"] += members[high : high + medium]
        subsets["low"] += members[high + medium :]
    return subsets


def reference(logits, classes, counted, confidence, *, ranked=None, **fields):
    """J_hybrid; `ranked`: logits to rank by, where not by `logits`."""
    fields = dataclasses.asdict(early_detection.Hybrid()) | fields
    epsilon, literal = fields["epsilon"], fields["equations"] == "literal"
    number = logits.shape[1]

    def log_softmax(row):
        row = row.astype(np.float64)
        return row - row.max() - np.log(np.exp(row - row.max()).sum())

    def log_confidence(values):
        return np.array(
            [log_softmax(values[s])[classes[s]] if counted[s] else np.nan for s in where]
        )

    where = range(len(classes))
    log_c = log_confidence(logits)
    # Ranked as float32 sees it, which decides what is a tie.
    by = log_c if ranked is None else log_confidence(ranked)
    subsets = reference_subsets(by.astype(np.float32), classes, counted, fields["shares"])
    total = 0.0
    for name, weight in (("high", "alpha"), ("medium", "beta"), ("low", "gamma")):
        losses = []
        for s in subsets[name]:
            k, log_p = classes[s], log_softmax(logits[s])
            c_s, c_k = np.exp(log_c[s]), float(confidence[k])
            y_hot = float(np.argmax(log_p) == k)  # Eq. 4.
            if name == "high" and literal:
                losses.append(-(y_hot * (1 - epsilon) + epsilon / 2) * log_c[s])  # Eq. 5.
            elif name == "high":
                losses.append(
                    sum(-((j == k) * (1 - epsilon) + epsilon / number) * log_p[j]
                        for j in range(number))
                )  # fmt: skip
            elif name == "medium" and literal:
                p_target = c_k if y_hot else 1 - c_k  # Eq. 8.
                p_s = c_s if y_hot else 1 - c_s  # Eq. 9.
                losses.append(y_hot * (np.log(p_target) - np.log(p_s)) if y_hot else 0.0)  # Eq. 7.
            elif name == "medium":
                target = [c_k if j == k else (1 - c_k) / (number - 1) for j in range(number)]
                losses.append(
                    sum(t * (np.log(t) - log_p[j]) for j, t in enumerate(target) if t > 0)
                )
            else:
                losses.append(-(y_hot if literal else 1.0) * log_c[s])  # Eq. 10.
        if losses:
            mean = fields["reduction"] == "mean"
            total += fields[weight] * (np.mean(losses) if mean else np.sum(losses))
    return total


def as_reference(outputs, batch, stats, target):
    classes = np.asarray(cases.labels_of(batch["grades"])[target]).astype(int)
    return outputs[target], classes, batch["mask"] & (classes != MISSING), stats["confidence"]


@jax.jit
def compiled(task, outputs, batch, epoch, stats):
    """The loss and its gradient as in training: the task, the epoch and stats are arguments."""

    def loss(outputs):
        return cases.loss(task, outputs, batch, epoch, stats)

    return jax.value_and_grad(loss, has_aux=True)(outputs)


def loss_of(task, outputs, batch, stats, epoch=LATER):
    return float(compiled(task, outputs, batch, epoch, stats)[0][0])


VARIANTS = [
    {"equations": equations, "reduction": reduction}
    for equations in EQUATIONS
    for reduction in REDUCTIONS
]
NUMBERS = (
    {},
    {"shares": (6, 3, 1), "epsilon": 0.05, "alpha": 0.3, "beta": 0.2, "gamma": 0.5},
    {"shares": (8, 1, 1), "epsilon": 0.2, "alpha": 0.7, "beta": 0.1, "gamma": 0.2},
    {"shares": (1, 0, 0), "epsilon": 0.0},
    {"shares": (0, 1, 0)},
    {"shares": (0, 0, 1)},
)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v.values()))
@pytest.mark.parametrize("target", [BINARY, FIVE])
def test_the_loss_is_the_papers(target, variant):
    before = compiled._cache_size()
    for seed in range(84):
        fields = variant | NUMBERS[seed % len(NUMBERS)]
        outputs, batch, stats = random_case(seed, target)
        expected = reference(*as_reference(outputs, batch, stats, target), **fields)
        ours = loss_of(make(target, **fields), outputs, batch, stats)
        assert ours == pytest.approx(expected, rel=2e-5, abs=2e-6), seed
    assert compiled._cache_size() == before + 1


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v.values()))
@pytest.mark.parametrize("target", [BINARY, FIVE])
def test_the_gradient_is_the_references_with_fixed_ranks(target, variant):
    """Central differences in float64; ranks and right or wrong stay as they are."""
    for seed in (1, 2, 3):
        outputs, batch, stats = random_case(seed, target, batch=16)
        batch["mask"][:] = True
        outputs[target] = np.random.default_rng(seed).normal(size=outputs[target].shape)
        outputs[target] = outputs[target].astype(np.float32)
        case = as_reference(outputs, batch, stats, target)
        logits, *rest = case
        step, expected = 1e-5, np.zeros(logits.shape)
        for place in np.ndindex(*logits.shape):
            moved = []
            for sign in (1, -1):
                other = logits.astype(np.float64)
                other[place] += sign * step
                moved.append(reference(other, *rest, ranked=logits, **variant))
            expected[place] = (moved[0] - moved[1]) / (2 * step)
        gradient = compiled(make(target, **variant), outputs, batch, LATER, stats)[1][target]
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("equations", EQUATIONS)
def test_the_mean_confidence_and_the_ranks_have_no_gradient(equations):
    outputs, batch, stats = random_case(1)
    task = make(equations=equations)
    gradient = jax.jit(jax.grad(lambda m: cases.loss(task, outputs, batch, LATER, m)[0]))(stats)
    assert (np.asarray(gradient["confidence"]) == 0).all()

    def of_shares(shares):
        return cases.loss(task.replace(shares=shares), outputs, batch, LATER, stats)[0]

    through = jax.jit(jax.grad(of_shares))(jnp.array([7.0, 2.0, 1.0]))
    assert (np.asarray(through) == 0).all()


def test_one_program_serves_every_memory_epoch_and_class_count():
    program = jax.jit(lambda task, *case: cases.loss(task, *case))
    for seed in range(12):
        outputs, batch, stats = random_case(seed)
        epoch = jnp.float32(seed / 3)
        program(make(**NUMBERS[seed % len(NUMBERS)]), outputs, batch, epoch, stats)
    assert program._cache_size() == 1


def test_tasks_with_other_numbers_are_one_vmapped_program():
    tasks = [make(**fields) for fields in NUMBERS[:3]]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)
    assert len(jax.tree.leaves(tasks[0])) == 7
    drawn = [random_case(seed) for seed in (3, 8, 11)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)

    @jax.jit
    def all_of_them(tasks, drawn):
        def one(task, outputs, batch, stats):
            def loss(outputs):
                return cases.loss(task, outputs, batch, LATER, stats)

            return jax.value_and_grad(loss, has_aux=True)(outputs)

        return jax.vmap(lambda task, case: one(task, *case))(tasks, drawn)

    (losses, parts), gradients = all_of_them(stacked, together)
    for i, (task, (outputs, batch, stats)) in enumerate(zip(tasks, drawn)):
        (loss, own_parts), gradient = compiled(task, outputs, batch, LATER, stats)
        assert float(losses[i]) == pytest.approx(float(loss), rel=1e-6)
        for name, value in own_parts.items():
            assert float(parts[name][i]) == pytest.approx(float(value), rel=1e-6)
        np.testing.assert_allclose(gradients[BINARY][i], gradient[BINARY], rtol=1e-5, atol=1e-7)


# ---- The partition ----


@pytest.mark.parametrize("shares", [(6, 3, 1), (7, 2, 1), (8, 1, 1), (1, 1, 1), (1, 0, 0)])
def test_subsets_have_their_sizes(shares):
    split = jax.jit(partition)
    for number in range(65):
        confidence = np.random.default_rng(number).random(64).astype(np.float32)
        known = np.arange(64) < number
        subsets = split(confidence, np.zeros(64, int), known, np.float32(shares))
        sizes = [int(subset.sum()) for subset in subsets]
        assert sizes == list(subset_sizes(number, shares)), number
        assert not (np.sum(subsets, axis=0) > 1).any()
        assert (np.any(subsets, axis=0) == known).all()


@pytest.mark.parametrize(
    ("number", "sizes"),
    [(0, (0, 0, 0)), (1, (1, 0, 0)), (2, (1, 1, 0)), (3, (2, 0, 1)), (4, (3, 0, 1)), (5, (4, 0, 1)),
     (6, (4, 1, 1)), (10, (7, 2, 1)), (15, (11, 2, 2)), (16, (11, 3, 2))],
)  # fmt: skip
def test_sizes_of_small_classes_at_7_to_2_to_1(number, sizes):
    known = np.arange(16) < number
    subsets = partition(jnp.zeros(16), jnp.zeros(16, int), known, np.float32((7, 2, 1)))
    assert tuple(int(subset.sum()) for subset in subsets) == sizes
    # Of equal confidence, the earlier ranks higher.
    order = np.concatenate([np.flatnonzero(subset) for subset in subsets])
    assert order.tolist() == list(range(number))


def test_ranks_are_within_a_class():
    confidence = jnp.array([0.9, 0.8, 0.7, 0.3, 0.2, 0.1])
    subsets = partition(confidence, jnp.array([0, 0, 0, 1, 1, 1]), jnp.ones(6, bool), np.ones(3))
    assert [np.flatnonzero(subset).tolist() for subset in subsets] == [[0, 3], [1, 4], [2, 5]]


# ---- Properties ----


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([BINARY, FIVE]))
def test_the_order_of_the_batch_does_not_matter(seed, target):
    rng = np.random.default_rng(seed)
    outputs, batch, stats = random_case(4 * seed + 1, target)
    outputs[target] = rng.normal(size=outputs[target].shape).astype(np.float32)  # No ties.
    order = rng.permutation(BATCH)
    turned = {target: outputs[target][order]}, {name: a[order] for name, a in batch.items()}
    task = make(target)
    (loss, parts), gradient = compiled(task, outputs, batch, LATER, stats)
    (other, other_parts), other_gradient = compiled(task, *turned, LATER, stats)
    assert float(loss) == pytest.approx(float(other), rel=1e-5, abs=1e-6)
    for name, value in parts.items():
        assert float(value) == pytest.approx(float(other_parts[name]), rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(
        gradient[target][order], other_gradient[target], rtol=1e-5, atol=1e-6
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_masked_knees_and_those_of_no_class_count_nowhere(seed):
    outputs, batch, stats = random_case(seed)
    logits = outputs[BINARY]
    kept = batch["mask"] & np.isin(batch["grades"][:, 0], (0, 2))
    task = make()
    (loss, parts), gradient = compiled(task, outputs, batch, LATER, stats)
    assert np.isfinite(loss)
    assert (np.asarray(gradient[BINARY])[~kept] == 0).all()
    # Whatever is said of the others.
    rng = np.random.default_rng(seed)
    other = {BINARY: np.where(kept[:, None], logits, rng.normal(size=logits.shape))}
    changed = batch | {"grades": batch["grades"].copy()}
    changed["grades"][~batch["mask"], 0] = rng.integers(-1, 5, (~batch["mask"]).sum())
    other[BINARY] = other[BINARY].astype(np.float32)
    (again, again_parts), again_gradient = compiled(task, other, changed, LATER, stats)
    assert float(loss) == float(again)
    assert parts == again_parts
    np.testing.assert_array_equal(gradient[BINARY], again_gradient[BINARY])


def test_nan_in_a_knee_that_counts_shows():
    outputs, batch, stats = random_case(3)
    outputs[BINARY] = np.zeros_like(outputs[BINARY])
    batch["mask"][::2] = False
    for equations in EQUATIONS:
        for knee in (np.flatnonzero(batch["mask"])[0], np.flatnonzero(~batch["mask"])[0]):
            bad = {BINARY: outputs[BINARY].copy()}
            bad[BINARY][knee, 0] = np.nan
            loss = loss_of(make(equations=equations), bad, batch, stats)
            assert np.isnan(loss) == batch["mask"][knee]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v.values()))
@pytest.mark.parametrize("size", [50.0, 1e4, 1e30])
def test_extreme_logits_have_finite_losses_and_gradients(size, variant):
    outputs, batch, stats = random_case(2)
    signs = np.sign(np.random.default_rng(0).normal(size=outputs[BINARY].shape))
    outputs[BINARY] = (size * signs).astype(np.float32)
    for confidence in (stats["confidence"], np.float32([0.0, 1.0])):
        (loss, parts), gradient = compiled(
            make(**variant), outputs, batch, LATER, {"confidence": confidence}
        )
        assert np.isfinite([loss, *parts.values()]).all()
        assert np.isfinite(gradient[BINARY]).all()


@pytest.mark.parametrize("target", [BINARY, FIVE])
def test_a_batch_of_one_class_or_none(target):
    outputs, batch, stats = random_case(1, target)
    batch["mask"][:], outputs[target][:] = True, np.random.default_rng(0).normal(size=(BATCH, 1))
    outputs[target][:, 0] += np.arange(BATCH)
    batch["grades"][:, 0] = 2
    case = as_reference(outputs, batch, stats, target)
    task = make(target)
    assert loss_of(task, outputs, batch, stats) == pytest.approx(reference(*case), rel=1e-5)
    batch["grades"][:, 0] = MISSING
    (loss, parts), gradient = compiled(task, outputs, batch, LATER, stats)
    assert float(loss) == 0
    assert all(float(value) == 0 for value in parts.values())
    assert (np.asarray(gradient[target]) == 0).all()


def test_knees_that_are_as_confident_as_their_class_are_left_where_they_are():
    """The divergence is 0, with no gradient, where p is the target."""
    confidence = np.float32([0.8, 0.6])
    classes = np.array([0, 1] * 4)
    p = np.where(
        np.eye(2)[classes] == 1, confidence[classes][:, None], 1 - confidence[classes][:, None]
    )
    outputs = {BINARY: np.log(p).astype(np.float32)}
    batch = {"grades": grades_of(classes, BINARY), "mask": np.ones(8, bool)}
    task = make(shares=(0, 1, 0), beta=1.0)
    (loss, _), gradient = compiled(task, outputs, batch, LATER, {"confidence": confidence})
    assert float(loss) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(gradient[BINARY], 0, atol=1e-7)


def test_as_printed_wrong_knees_of_low_and_medium_confidence_have_no_loss():
    """Effect of eq. 4 on eq. 7 and 10, for which it is not the default."""
    classes = np.zeros(9, int)
    outputs = {BINARY: np.tile(np.float32([0.0, 2.0]), (9, 1))}  # All predicted as class 1.
    batch = {"grades": grades_of(classes, BINARY), "mask": np.ones(9, bool)}
    stats = {"confidence": np.float32([0.85, 0.85])}
    case = outputs, batch, LATER, stats
    high, medium, low = (
        compiled(make(shares=shares, equations="literal"), *case)
        for shares in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    )
    expected = 0.4 * 0.15 / 2 * np.log1p(np.exp(2))
    assert float(high[0][1]["high_confidence"]) * 0.4 == pytest.approx(expected, rel=1e-5)
    for (loss, _), gradient in (medium, low):
        assert float(loss) == 0
        assert (np.asarray(gradient[BINARY]) == 0).all()
    assert loss_of(make(shares=(0, 0, 1)), outputs, batch, stats) > 0.1


SHARDED = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from knee_jax.data import mesh as meshes
from tests.tasks import test_early_detection as ours

mesh = meshes.make_mesh()
assert len(jax.devices()) == 4
for seed, target in ((3, ours.BINARY), (8, ours.FIVE), (12, ours.BINARY)):
    outputs, batch, stats = ours.random_case(seed, target)
    task = ours.make(target)
    (loss, _), gradient = ours.compiled(task, outputs, batch, ours.LATER, stats)
    divided = meshes.place((outputs, batch), meshes.batches(mesh, 1))
    (other, _), its = ours.compiled(task, *divided, ours.LATER, stats)
    np.testing.assert_allclose(other, loss, rtol=1e-5)
    np.testing.assert_allclose(its[target], gradient[target], rtol=1e-5, atol=1e-7)
"""


def test_a_batch_divided_over_devices_has_the_same_loss():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run([sys.executable, "-c", SHARDED], check=True, cwd=REPOSITORY, env=environment)


# ---- Warm-up, and the loss without confidence ----


def cross_entropy(outputs, batch, target=BINARY):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    _, classes, counted, _ = as_reference(outputs, batch, {"confidence": None}, target)
    return float(
        torch.nn.functional.cross_entropy(
            torch.tensor(outputs[target][counted], dtype=torch.float64),
            torch.tensor(classes[counted]),
        )
    )


def test_until_the_warmup_is_over_the_loss_is_cross_entropy():
    outputs, batch, stats = random_case(6)
    expected = cross_entropy(outputs, batch)
    for epoch in (0.0, 0.999):
        ours = loss_of(make(), outputs, batch, stats, jnp.float32(epoch))
        assert ours == pytest.approx(expected, rel=1e-5)
    hybrid = reference(*as_reference(outputs, batch, stats, BINARY))
    assert loss_of(make(), outputs, batch, stats, jnp.float32(1.0)) == pytest.approx(hybrid)
    at_once = make(warmup_epochs=0)
    assert loss_of(at_once, outputs, batch, stats, jnp.float32(0.0)) == pytest.approx(hybrid)


@pytest.mark.parametrize("target", [BINARY, FIVE])
def test_the_loss_may_be_cross_entropy_alone(target):
    outputs, batch, _ = random_case(5, target)
    task = make(target, loss="cross_entropy")
    (loss, parts), _ = compiled(task, outputs, batch, LATER, task.initial_validation_stats())
    assert float(loss) == pytest.approx(cross_entropy(outputs, batch, target), rel=1e-5)
    assert set(parts) == {"cross_entropy"}
    assert task.initial_validation_stats() == task.validation_stats(pd.DataFrame()) == {}


# ---- Memory, tables and scores ----


def test_the_memory_is_the_mean_confidence_of_each_class():
    task = make(initial_confidence=0.7)
    assert task.initial_validation_stats()["confidence"].dtype == np.float32
    initial = task.initial_validation_stats()["confidence"]
    np.testing.assert_array_equal(initial, np.float32([0.7, 0.7]))
    assert make(FIVE).initial_validation_stats()["confidence"].tolist() == pytest.approx([0.85] * 5)
    p = [[0.9, 0.1], [0.3, 0.7], [0.4, 0.6], [0.2, 0.8], [0.5, 0.5]]
    stats = task.validation_stats(cases.table_of(task, p, kl=[0, 0, 2, 2, 1]))
    np.testing.assert_allclose(stats["confidence"], [0.6, 0.7], rtol=1e-6)
    assert stats["confidence"].dtype == np.float32
    above = task.validation_stats(cases.table_of(task, [[1.0000001, 0.0], [0.0, 1.0]], kl=[0, 2]))
    assert above["confidence"].tolist() == [1, 1]


def test_a_class_without_a_validation_knee_is_named():
    task = make()
    with pytest.raises(
        UserError, match=r"validation part has no knee of KL 2.*config\.data\.split"
    ):
        task.validation_stats(cases.table_of(task, [[0.5, 0.5]] * 3, kl=[0, 0, 1]))
    five = make(FIVE)
    with pytest.raises(UserError, match=r"no knee of KL 1 and of KL 3, "):
        five.validation_stats(cases.table_of(five, np.eye(5)[[0, 2, 4]], kl=[0, 2, 4]))


@pytest.mark.parametrize("target", [BINARY, FIVE])
def test_scores_are_scikit_learns(target):
    from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

    rng = np.random.default_rng(0)
    number = NUM_CLASSES[target]
    kl = rng.choice([*KL_OF_CLASS[target], 1, MISSING], 80)
    p = rng.dirichlet(np.ones(number), 80)
    truth = np.array([KL_OF_CLASS[target].index(g) if g in KL_OF_CLASS[target] else -1 for g in kl])
    known = truth >= 0
    positive = p[:, 1] if target == BINARY else p[:, 2:].sum(1)
    expected = {
        "accuracy": accuracy_score(truth[known], p.argmax(1)[known]),
        "roc_auc": roc_auc_score(kl[known] >= 2, positive[known]),
        "loss": -log_loss(truth[known], p[known], labels=range(number)),
    }
    for selection, value in expected.items():
        task = make(target, selection=selection)
        assert task.score(cases.table_of(task, p, kl=kl)) == pytest.approx(value)
    assert make(target, selection="loss").score_name == "minus_cross_entropy"
    assert make(target, selection="roc_auc").score_name == "roc_auc"
    assert make(target).score_name == "accuracy"
    certain = make(target, selection="loss")
    always_first = np.eye(number)[np.zeros(80, int)]
    assert np.isfinite(certain.score(cases.table_of(certain, always_first, kl=kl)))


def test_tables_and_probabilities():
    task = make()
    outputs, _, _ = random_case(1)
    values = np.asarray(task.decode({BINARY: jnp.nan_to_num(outputs[BINARY])})[BINARY])
    assert values.dtype == np.float32
    np.testing.assert_allclose(values.sum(1), 1, atol=1e-6)
    table = task.table(cases.index_of(kl=[0, 2, 3]), np.array([2, 1]), {BINARY: np.eye(2)})
    assert table[BINARY].tolist() == [MISSING, 1]
    assert table[f"{BINARY}_pred"].tolist() == [0, 1]
    assert (task.targets, task.mixture) == ((BINARY,), None)


def test_knees_of_a_class_are_usable():
    index = cases.index_of(kl=[0, 1, 2, MISSING, 4])
    for target, usable in ((BINARY, [0, 2]), (FIVE, [0, 1, 2, 4])):
        found = settings_of(target).usable(index, targets.get_all([target]))
        assert np.flatnonzero(found).tolist() == usable


def test_parts_to_learn_from_need_every_class():
    index, binary = cases.index_of(kl=[0, 2, 0, 0]), targets.get_all([BINARY])
    settings = settings_of()
    settings.check_part("train", index.iloc[:2], binary)
    for part in ("train", "validation"):
        with pytest.raises(UserError, match=f"the {part} part has no knee of KL 2, "):
            settings.check_part(part, index.iloc[2:], binary)
    settings.check_part("test", index.iloc[2:], binary)


# ---- From a config ----


def test_the_defaults_are_the_papers():
    task = make()
    assert task.shares.tolist() == [7, 2, 1]
    numbers = [float(n) for n in (task.epsilon, task.alpha, task.beta, task.gamma)]
    assert numbers == pytest.approx([0.15, 0.4, 0.5, 0.1])
    assert (task.kind_of_loss, task.reduction, task.equations) == ("hybrid", "mean", "sensible")
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(task))
    # As it comes back from a file.
    assert make(shares=[6, 3, 1]).shares.tolist() == [6, 3, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"names": ()}, "targets = .*has one target"),
        ({"names": ("kl", "jsm")}, "targets = .*has one target"),
        ({"names": ("progression",)}, "targets = .*learns a grade or a target made of one"),
        ({"names": ("jsw_medial",)}, "targets: jsw_medial allows the loss squared_error"),
        ({"loss": "focal"}, "task.loss = 'focal': choose from hybrid, cross_entropy"),
        ({"selection": "kappa"}, "task.selection = 'kappa': choose from accuracy, roc_auc, loss"),
        ({"hybrid": {"lambda": 1}}, "task.hybrid has no field 'lambda': choose from shares"),
        ({"hybrid": {"reduction": "max"}}, "task.hybrid.reduction = 'max': choose from mean, sum"),
        ({"hybrid": {"equations": "both"}}, "task.hybrid.equations = 'both': choose from sensible"),
        ({"hybrid": {"shares": (7, 3)}}, "task.hybrid.shares = .*a tuple of 3 numbers"),
        ({"hybrid": {"shares": (7, -2, 1)}}, "task.hybrid.shares = .*0 or more"),
        ({"hybrid": {"shares": (0, 0, 0)}}, "task.hybrid.shares = .*all are 0"),
        ({"hybrid": {"shares": "7:2:1"}}, "task.hybrid.shares = '7:2:1'"),
        ({"hybrid": {"shares": (7, 2, math.nan)}}, "task.hybrid.shares = "),
        ({"hybrid": {"epsilon": 1.0}}, "task.hybrid.epsilon = 1.0: a number from 0 below 1"),
        ({"hybrid": {"epsilon": -0.1}}, "task.hybrid.epsilon = -0.1"),
        ({"hybrid": {"alpha": -1}}, "task.hybrid.alpha = -1: a number of 0 or more"),
        ({"hybrid": {"beta": "0.5"}}, "task.hybrid.beta = '0.5'"),
        ({"hybrid": {"gamma": math.inf}}, "task.hybrid.gamma = inf"),
        ({"hybrid": {"warmup_epochs": -1}}, "task.hybrid.warmup_epochs = -1"),
        ({"hybrid": {"alpha": 0, "beta": 0, "gamma": 0}}, "task.hybrid: alpha, beta and gamma"),
        ({"hybrid": {"initial_confidence": 0.0}}, "task.hybrid.initial_confidence = 0.0: a number"),
        ({"hybrid": {"initial_confidence": 1.1}}, "task.hybrid.initial_confidence = 1.1"),
        ({"class_weights": "prevalence"}, "task has no field 'class_weights'"),
        ({"coherence": {"weight": 1.0}}, "task has no field 'coherence'"),
        ({"data": {"unlabelled": "natural"}}, "data.unlabelled = 'natural' has no meaning"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_named(fields, message):
    with pytest.raises(UserError, match=rf"config\.{message}"):
        cases.check(early_detection.Settings, **({"names": (BINARY,)} | fields))

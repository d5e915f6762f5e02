import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn.mixture import GaussianMixture

from knee_jax.errors import UserError
from knee_jax.metrics import grade_coherence
from knee_jax.phantom import severity
from knee_jax.targets.grades import GRADES, MISSING
from knee_jax.tasks import coherence_loss
from tests.commands import run_here


def cohort(subjects=60, seed=0):
    """Grades int8 [n, 7] of phantom knees that were read, and their subjects' numbers."""
    frame = severity.simulate(subjects, visits=(0, 24), seed=seed)
    grades = frame[[f"read_{g}" for g in GRADES]].to_numpy()
    whole = (grades != MISSING).all(1)
    return grades[whole], frame["number"].to_numpy()[whole]


@pytest.fixture(scope="module")
def mixture():
    return grade_coherence.fit(cohort()[0])


def simplices(count, seed=0, concentration=0.5):
    """Random probability vectors [count, 29], from nearly one-hot to nearly uniform."""
    rng = np.random.default_rng(seed)
    parts = [rng.dirichlet(np.full(c, concentration), count) for c in grade_coherence.CLASSES]
    return np.concatenate(parts, axis=1)


def sklearn_density(mixture, codes):
    """scikit-learn's own log-density, of the mixture's covariances."""
    reference = GaussianMixture(len(mixture.weights))
    reference.weights_, reference.means_ = mixture.weights, mixture.means
    reference.precisions_cholesky_ = mixture.factors
    return reference.score_samples(codes)


def test_codes_stand_in_the_grades_order():
    codes = grade_coherence.one_hot(np.array([[4, 0, 1, 2, 3, 0, 1], [0, 0, 0, 0, 0, 0, MISSING]]))
    assert codes.shape == (2, 29)
    assert np.flatnonzero(codes[0]).tolist() == [4, 5, 10, 15, 20, 21, 26]
    assert np.isnan(codes[1]).all()


@pytest.mark.parametrize("concentration", [0.02, 0.5, 20.0])
def test_density_equals_scikit_learn(mixture, concentration):
    codes = simplices(300, concentration=concentration)
    expected = sklearn_density(mixture, codes)
    found = jax.jit(coherence_loss.log_density)(mixture, codes)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(
        grade_coherence.log_density_on_host(mixture, codes), expected, rtol=1e-12, atol=1e-9
    )


def test_factors_invert_the_covariances_of_an_independent_fit():
    """The same data, perturbed by the same noise, fitted by scikit-learn outside this project."""
    grades, _ = cohort()
    codes = np.tile(grade_coherence.one_hot(grades), (2, 1))
    codes += np.random.default_rng(5).normal(0, 0.2, codes.shape)
    reference = GaussianMixture(3, random_state=5, max_iter=300).fit(codes)
    ours = grade_coherence.fit(grades, num_components=3, num_replicas=2, seed=5)
    np.testing.assert_allclose(ours.weights, reference.weights_, rtol=1e-6)
    for factor, covariance in zip(ours.factors, reference.covariances_):
        np.testing.assert_allclose(factor @ factor.T @ covariance, np.eye(29), atol=1e-8)


def test_fitting_is_repeatable_and_ignores_unread_knees(mixture):
    grades, _ = cohort()
    unread = grades[:9].copy()
    unread[:, 3] = MISSING
    again = grade_coherence.fit(np.concatenate([unread, grades]))
    jax.tree.map(np.testing.assert_array_equal, again, mixture)
    other = grade_coherence.fit(grades, seed=1)
    assert not np.array_equal(other.means, mixture.means)


def test_density_is_stable_far_from_every_component(mixture):
    """Off the simplex, where the density itself under- or overflows by hundreds of decades."""
    codes = mixture.means[:1] + np.array([[0.0], [0.5], [5.0], [50.0], [5e3]])
    value_and_grad = jax.value_and_grad(lambda p: coherence_loss.log_density(mixture, p[None])[0])
    density, gradient = jax.jit(jax.vmap(value_and_grad))(jnp.asarray(codes, jnp.float32))
    assert density[0] > 10
    assert density[-1] < -1e7
    assert np.isfinite(density).all()
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(density, sklearn_density(mixture, codes), rtol=1e-4, atol=1e-3)


def test_gradient_equals_finite_differences(mixture):
    with jax.enable_x64(True):
        codes, step = simplices(4), 1e-6

        def total(p):
            return coherence_loss.incoherence(coherence_loss.log_density(mixture, p), 0.5).sum()

        gradient = np.asarray(jax.jit(jax.grad(total))(jnp.asarray(codes)))
    assert gradient.dtype == np.float64
    for j in range(29):
        shift = step * np.eye(29)[j]
        ends = [
            np.logaddexp(0, -0.5 * sklearn_density(mixture, codes + s)) / 0.5
            for s in (shift, -shift)
        ]
        np.testing.assert_allclose(
            gradient[:, j], (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-5
        )


def test_incoherence_is_equation_4():
    density = np.array([20.0, 0.0, -46.0, -1e4, -1e30], np.float32)
    expected = np.logaddexp(0.0, -0.5 * density.astype(np.float64)) / 0.5
    np.testing.assert_allclose(coherence_loss.incoherence(density, 0.5), expected, rtol=1e-5)
    slope = jax.jit(jax.vmap(jax.grad(lambda g: coherence_loss.incoherence(g, 0.5))))(density)
    np.testing.assert_allclose(slope, -1 / (1 + np.exp(0.5 * density[:].clip(-100))), rtol=1e-4)


def test_nan_probabilities_show_in_the_loss(mixture):
    codes = simplices(3)
    codes[1, 7] = np.nan
    loss = jax.jit(
        lambda p: coherence_loss.incoherence(coherence_loss.log_density(mixture, p), 0.5)
    )(codes)
    assert np.isnan(loss).tolist() == [False, True, False]


def test_a_grade_never_seen_is_named_and_its_density_finite(caplog):
    grades = cohort()[0]
    grades = grades[(grades[:, 0] != 4) & (grades[:, 5] != 3)]
    mixture = grade_coherence.fit(grades)
    assert "no training knee has kl 4, jsl 3" in caplog.text
    unseen = np.array([[4, 1, 1, 1, 1, 3, 0]])
    value_and_grad = jax.jit(
        jax.value_and_grad(lambda p: coherence_loss.log_density(mixture, p)[0])
    )
    density, gradient = value_and_grad(grade_coherence.one_hot(unseen))
    assert np.isfinite(density)
    assert np.isfinite(gradient).all()
    assert density < np.quantile(
        grade_coherence.log_density_on_host(mixture, grade_coherence.one_hot(grades)), 0.05
    )


def test_too_few_knees_are_reported():
    grades = cohort()[0][:12]
    grades[:3, 0] = MISSING
    with pytest.raises(UserError, match=r"at least 10 training knees .* there are 9: lower config"):
        grade_coherence.fit(grades)
    assert np.isfinite(grade_coherence.fit(grades, num_components=9).factors).all()


def test_saved_and_loaded_bit_for_bit(mixture, tmp_path):
    path = tmp_path / grade_coherence.FILE
    path.write_bytes(grade_coherence.content(mixture))
    loaded = grade_coherence.load(path)
    jax.tree.map(np.testing.assert_array_equal, loaded, mixture)
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(loaded))
    assert [p.name for p in tmp_path.iterdir()] == [grade_coherence.FILE]
    with pytest.raises(UserError, match="no such file"):
        grade_coherence.load(tmp_path / "other.npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="is not a mixture"):
        grade_coherence.load(path)


def test_surprise_is_a_conditional_probability(mixture):
    """Of the densities of all values that a grade could have, the others as they are."""
    grades = cohort()[0][:5]
    found = grade_coherence.surprise(mixture, grades)
    for i, classes in enumerate(grade_coherence.CLASSES):
        changed = np.repeat(grades[:, None], classes, axis=1)
        changed[:, :, i] = np.arange(classes)
        density = sklearn_density(mixture, grade_coherence.one_hot(changed.reshape(-1, 7)))
        density = np.exp(density.reshape(5, classes))
        p = density[np.arange(5), grades[:, i]] / density.sum(1)
        np.testing.assert_allclose(found[:, i], -np.log(p), rtol=1e-8, atol=1e-10)


def impossible(grades):
    """Return where the Kellgren-Lawrence grade contradicts the others by its definition.

    No osteoarthritis (0) beside definite narrowing or a definite osteophyte; or the severest (4)
    without any narrowing (Kellgren & Lawrence 1957).
    """
    narrowing, spur = grades[..., 5:].max(-1), grades[..., 1:5].max(-1)
    return ((grades[..., 0] == 0) & ((narrowing >= 2) | (spur >= 2))) | (
        (grades[..., 0] == 4) & (narrowing == 0)
    )


def plant(grades, seed):
    """Misreads the KL grade of 2 % of the knees, 0 for 4 and the like, so that it is impossible."""
    rng, grades = np.random.default_rng(seed), grades.copy()
    flipped = rng.choice(len(grades), round(0.02 * len(grades)), replace=False)
    ill = impossible(np.where(np.arange(7) == 0, 0, grades[flipped]))
    grades[flipped, 0] = np.where(ill, 0, 4)
    grades[flipped[~ill], 5:] = 0
    return grades, flipped


def test_planted_mistakes_head_the_listing():
    """Fitted on the contaminated cohort itself, whose other knees hold no impossible grades.

    Of the cohorts 1 to 5, the listing finds 0.98, 0.88, 0.78, 0.90 and 0.85 of the mistakes.
    """
    shares = []
    for seed in (2, 3):
        frame = severity.simulate(400, visits=(0, 24, 48), seed=seed)
        grades = frame[[f"read_{g}" for g in GRADES]].to_numpy()
        grades = grades[(grades != MISSING).all(1)]
        assert not impossible(grades).any()
        planted, flipped = plant(grades, seed)
        assert impossible(planted)[flipped].all()
        listing = grade_coherence.list_suspects(pd.DataFrame(planted, columns=list(GRADES)))
        assert len(listing) == len(planted)
        head = listing.head(len(flipped))
        shares.append(np.isin(flipped, head.index).mean())
        assert (head["suspect"] == "kl").mean() > 0.5
    assert np.mean(shares) >= 0.8


def test_rows_of_random_impossible_grades_have_a_low_density():
    """Several wrong grades at once make the knee a surprise, though no single grade is one."""
    shares = []
    for seed in range(3):
        grades, _ = cohort(300, seed)
        rng = np.random.default_rng(seed)
        draws = np.stack([rng.integers(0, c, 5000) for c in grade_coherence.CLASSES], 1)
        wrong = rng.choice(len(grades), round(0.02 * len(grades)), replace=False)
        grades[wrong] = draws[impossible(draws)][: len(wrong)]
        density = grade_coherence.log_density_on_host(
            grade_coherence.fit(grades), grade_coherence.one_hot(grades)
        )
        shares.append(np.isin(wrong, density.argsort()[: len(wrong)]).mean())
    assert np.mean(shares) >= 0.6


def test_listing_leaves_out_unread_knees_and_reports_what_it_cannot_read():
    grades = cohort(25)[0][:48].astype(float)
    table = pd.DataFrame(grades, columns=list(GRADES))
    table.insert(0, "subject", [f"{i:03d}" for i in range(48)])
    table.loc[3, "jsl"], table.loc[5, "kl"] = np.nan, MISSING
    listing = grade_coherence.list_suspects(table)
    assert sorted(listing.index) == [i for i in range(48) if i not in (3, 5)]
    columns = ["log_density", "surprise", "suspect", "incoherence"]
    assert list(listing) == ["subject", *GRADES, *columns]
    assert listing["incoherence"].is_monotonic_decreasing
    assert listing["kl"].dtype == np.int8
    for change, message in (
        ({"osfl": 4}, "row 1 of the table has osfl = 4: whole grades 0 to 3"),
        ({"kl": 1.5}, "row 1 of the table has kl = 1.5: whole grades 0 to 4"),
        ({"kl": "2: Yes"}, "row 1 of the table has kl = 2: Yes: whole grades 0 to 4"),
    ):
        with pytest.raises(UserError, match=message):
            grade_coherence.list_suspects(table.assign(**change))
    with pytest.raises(UserError, match="lacks the column jsm"):
        grade_coherence.list_suspects(table.drop(columns="jsm"))
    with pytest.raises(UserError, match="8 knees of the table have all seven grades: at least 40"):
        grade_coherence.list_suspects(table.head(10))


def test_the_command_writes_the_listing(tmp_path):
    table = pd.DataFrame(cohort(25)[0][:48], columns=list(GRADES))
    table.to_csv(tmp_path / "index.csv", index=False)
    out = f"--out={tmp_path / 'out.csv'}"
    done = run_here("knee_jax", "coherence", out, f"--index={tmp_path / 'index.csv'}")
    assert done.returncode == 0, done.stderr
    assert "48 of 48 knees have all seven grades" in done.stdout
    assert len(pd.read_csv(tmp_path / "out.csv")) == 48
    done = run_here("knee_jax", "coherence", out, f"--index={tmp_path / 'no.csv'}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'no.csv'}: no such file")

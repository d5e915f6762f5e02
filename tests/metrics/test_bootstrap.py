import numpy as np
import pytest
from scipy import stats

from knee_jax.errors import UserError
from knee_jax.metrics import bootstrap


def all_counts(scheme, subjects, classes, num_resamples=200, seed=0):
    return np.concatenate(
        list(bootstrap.resample_counts(scheme, subjects, classes, num_resamples, seed))
    )


SUBJECTS = np.repeat([f"s{i}" for i in range(20)], [1, 2, 3, 4] * 5)
CLASSES = np.random.default_rng(0).integers(3, size=len(SUBJECTS))


def test_subjects_are_drawn_whole_and_as_many_as_there_are():
    counts = all_counts("subject", SUBJECTS, CLASSES)
    first = np.unique(SUBJECTS, return_index=True)[1]
    np.testing.assert_array_equal(counts[:, first].sum(1), 20)
    for subject in np.unique(SUBJECTS):
        of_subject = counts[:, subject == SUBJECTS]
        assert (of_subject == of_subject[:, :1]).all()


def test_classes_keep_their_sizes():
    counts = all_counts("class", SUBJECTS, CLASSES)
    for label in np.unique(CLASSES):
        assert (counts[:, label == CLASSES].sum(1) == (label == CLASSES).sum()).all()


@pytest.mark.parametrize("scheme", bootstrap.SCHEMES)
def test_counts_have_the_moments_of_a_multinomial(scheme):
    rows = np.arange(12)
    counts = all_counts(scheme, rows, np.zeros(12), num_resamples=20_000)
    np.testing.assert_allclose(counts.mean(0), 1.0, atol=0.04)
    np.testing.assert_allclose(counts.var(0), 11 / 12, atol=0.05)


@pytest.mark.parametrize("scheme", bootstrap.SCHEMES)
def test_draws_depend_on_the_seed_and_not_on_the_chunks(scheme, monkeypatch):
    whole = all_counts(scheme, SUBJECTS, CLASSES, 23, seed=5)
    monkeypatch.setattr(bootstrap, "_CHUNK_ELEMENTS", 4 * len(SUBJECTS))
    chunks = list(bootstrap.resample_counts(scheme, SUBJECTS, CLASSES, 23, 5))
    assert len(chunks) == 6
    np.testing.assert_array_equal(np.concatenate(chunks), whole)
    assert (all_counts(scheme, SUBJECTS, CLASSES, 23, seed=6) != whole).any()


def test_chunks_bound_the_memory():
    subjects = np.arange(50_000)
    chunk = next(bootstrap.cluster_counts(subjects, 1000, seed=0))
    assert chunk.nbytes <= 2**26
    assert chunk.shape[1] == 50_000


def test_unknown_scheme():
    with pytest.raises(UserError, match="'knee'; choose one of subject, class"):
        bootstrap.resample_counts("knee", SUBJECTS, CLASSES, 10, 0)


def test_interval_takes_percentiles_of_what_is_defined():
    replicates = np.append(np.arange(1001.0), [np.nan, np.nan])
    assert bootstrap.interval(replicates) == (25.0, 975.0)
    assert np.isnan(bootstrap.interval(np.full(3, np.nan))).all()


def test_agrees_with_scipy():
    """The interval of a mean, where subjects have one row each, is SciPy's percentile bootstrap."""
    values = np.random.default_rng(1).exponential(size=80)
    replicates = bootstrap.replicate(
        lambda weights: {"mean": weights @ values / weights.sum(-1)},
        bootstrap.cluster_counts(np.arange(80), 20_000, seed=2),
    )
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    np.testing.assert_allclose(bootstrap.interval(replicates["mean"]), theirs, atol=0.01)


def coverage(scheme, num_studies=300, num_subjects=60):
    """Share of simulated studies whose interval holds the true accuracy, 0.5.

    Both knees of a subject, at two visits, are graded right or wrong together.
    """
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(num_subjects), 4)
    held = 0
    for study in range(num_studies):
        right = np.repeat(rng.random(num_subjects) < 0.5, 4).astype(float)
        counts = bootstrap.resample_counts(scheme, subjects, np.zeros(len(subjects)), 400, study)
        replicates = bootstrap.replicate(
            lambda weights, right=right: {"accuracy": weights @ right / weights.sum(-1)}, counts
        )
        low, high = bootstrap.interval(replicates["accuracy"])
        held += low <= 0.5 <= high
    return held / num_studies


def test_intervals_cover_the_truth_where_knees_of_a_subject_are_alike():
    """Resampling by subject covers; resampling knees, as if they were independent, does not."""
    assert 0.91 <= coverage("subject") <= 0.98
    assert coverage("class") < 0.8


def test_describe_says_how():
    text = bootstrap.describe(500, 7, "class")
    assert "500" in text
    assert "seed 7" in text
    assert "2.5 and 97.5" in text
    assert "true class" in text


def test_the_deviation_leaves_out_what_is_undefined():
    assert bootstrap.deviation(np.array([1.0, np.nan, 3.0])) == 1.0
    assert np.isnan(bootstrap.deviation(np.array([np.nan])))

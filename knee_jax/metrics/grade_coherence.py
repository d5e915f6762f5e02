"""Coherence of the seven grades of a knee: a Gaussian mixture over their one-hot codes.

Zheng et al. 2021, section 2.2: the mixture is fitted to the grades that experts gave (eq. 2), and
its log-density of predicted probabilities measures their coherence (eq. 3). The loss based on it is
in `knee_jax.tasks.coherence_loss`. The same mixture finds knees that should be read again.
"""

import io
import logging
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from knee_jax.errors import UserError
from knee_jax.foreign_tables import is_missing, numbers
from knee_jax.targets.grades import GRADES, MISSING, NUM_CLASSES

CLASSES = tuple(NUM_CLASSES[grade] for grade in GRADES)
DIMENSIONS = sum(CLASSES)
"""Length of a code, 29: five classes of KL and four of each OARSI grade."""

NUM_COMPONENTS = 10
SIGMA = 0.2
NUM_REPLICAS = 5
COVARIANCE_FLOOR = 1e-6

FILE = "coherence.npz"
"""Name of the mixture's file in a run's folder."""

COMMITTEE_SIZE = 6
COMMITTEE_SIGMA = 0.4
SUSPECT_SHARE = 0.05
"""Share of the knees, the most surprising, left out when the committee is fitted again."""

RARE, RARE_WEIGHT = -10.0, 0.2
"""Threshold and weight: log-densities below the first add to the incoherence with the second."""

_log = logging.getLogger(__name__)


class Mixture(NamedTuple):
    """Gaussian mixture of K components in D dimensions; a pytree of three leaves.

    On the host they are NumPy float64; inside a compiled function they become float32, which is
    accurate enough because the Cholesky factors were computed beforehand.

    Attributes:
        weights: Weights of the components, [K], which sum to 1.
        means: Means of the components, [K, D].
        factors: Upper triangular factors, [K, D, D], such that factor @ factor.T is the inverse of
            the component's covariance.
    """

    weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray


def one_hot(grades: np.ndarray) -> np.ndarray:
    """Return one-hot codes, float64 [n, 29], of grades int [n, 7]; all NaN if one is missing."""
    grades = np.asarray(grades)
    codes = [grades[:, [i]] == np.arange(classes) for i, classes in enumerate(CLASSES)]
    known = (grades != MISSING).all(axis=1, keepdims=True)
    return np.where(known, np.concatenate(codes, axis=1).astype(np.float64), np.nan)


def fit(
    grades: np.ndarray,
    *,
    num_components: int = NUM_COMPONENTS,
    sigma: float = SIGMA,
    num_replicas: int = NUM_REPLICAS,
    seed: int = 0,
) -> Mixture:
    """Fit the mixture by expectation maximisation; the same arguments give the same bits.

    Knees with a missing grade are left out. Zheng et al. 2021 do not specify the covariance's form
    or how often the perturbation is drawn: here it is full, with 1e-6 added to its diagonal, and
    the codes are repeated `num_replicas` times, each time with new noise.

    Args:
        grades: Grades, int [n, 7] in the order of `GRADES`, `MISSING` allowed.
        num_components: Number of components, K of eq. 2.
        sigma: Standard deviation of the perturbation of the one-hot codes, > 0.
        num_replicas: Number of perturbed copies of each knee.
        seed: Random seed of the perturbation and of the initial values.

    Raises:
        UserError: There are fewer knees with all grades than components.
    """
    codes = one_hot(grades)
    codes = codes[np.isfinite(codes).all(axis=1)]
    if len(codes) < num_components:
        raise UserError(
            f"the coherence of grades needs at least {num_components} training knees with all "
            f"seven grades read, one per component, and there are {len(codes)}: lower "
            "config.task.coherence.components, or set config.task.coherence.weight = 0"
        )
    if unseen := _unseen(codes):
        _log.warning(
            "no training knee has %s: the coherence takes such a grade for very unlikely",
            ", ".join(unseen),
        )
    return _fit(codes, num_components, sigma, num_replicas, "full", seed)


def _fit(
    codes: np.ndarray,
    num_components: int,
    sigma: float,
    num_replicas: int,
    covariance: str,
    seed: int,
) -> Mixture:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(seed)
    data = np.tile(codes, (num_replicas, 1))
    data += rng.normal(0.0, sigma, data.shape)
    mixture = GaussianMixture(
        num_components,
        covariance_type=covariance,
        reg_covar=COVARIANCE_FLOOR,
        max_iter=300,
        random_state=seed,
    )
    # On one thread, since sums would otherwise depend on the number of cores.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(data)
    if not mixture.converged_:
        _log.warning("the coherence's mixture has not converged in %d iterations", mixture.n_iter_)
    factors = np.broadcast_to(
        mixture.precisions_cholesky_, (num_components, DIMENSIONS, DIMENSIONS)
    )
    return Mixture(mixture.weights_, mixture.means_, factors.copy())


def _unseen(codes: np.ndarray) -> list[str]:
    names = [f"{grade} {c}" for grade in GRADES for c in range(NUM_CLASSES[grade])]
    return [name for name, count in zip(names, codes.sum(axis=0), strict=True) if not count]


def content(mixture: Mixture) -> bytes:
    """Return the mixture as `.npz` in float64 (`weights`, `means`, `factors`)."""
    arrays = {name: np.asarray(getattr(mixture, name), np.float64) for name in Mixture._fields}
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def load(path: Path) -> Mixture:
    """Read a mixture from a file with that content.

    Raises:
        UserError: There is no such file, or it does not hold a mixture.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Mixture(**{name: arrays[name] for name in Mixture._fields})
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; it is written when training begins") from None
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: is not a mixture of grades ({error}); train again") from None


def log_density_on_host(mixture: Mixture, codes: np.ndarray) -> np.ndarray:
    """Return the log-density of the mixture (eq. 3) in float64: codes [n, D] → [n].

    `knee_jax.tasks.coherence_loss.log_density` computes it on a device.
    """
    codes = np.asarray(codes, np.float64)
    parts = [
        np.log(weight)
        + np.log(np.diagonal(factor)).sum()
        - 0.5 * np.square((codes - mean) @ factor).sum(-1)
        for weight, mean, factor in zip(mixture.weights, mixture.means, mixture.factors)
    ]
    return logsumexp(parts, axis=0) - log_normaliser(codes.shape[-1])


def log_normaliser(dimensions: int) -> float:
    """Return log((2 pi) ** (D / 2)), the constant of a normal density in D dimensions."""
    return 0.5 * dimensions * float(np.log(2 * np.pi))


def surprise(mixture: Mixture, grades: np.ndarray) -> np.ndarray:
    """Return how unexpected each grade is given the six others: -log p(grade | others).

    The probability is the density of a knee's code, divided by the sum of the densities of all
    codes that differ from it in that grade alone. Unlike the density itself it does not penalise a
    knee for being rare: a knee with severe disease everywhere is rare, yet each of its grades is
    what the others suggest.

    Args:
        mixture: Mixture fitted to the grades' codes.
        grades: Grades, int [n, 7], none missing.

    Returns:
        Surprises, float64 [n, 7], in nats, at least 0.
    """
    return -np.stack([_conditional(mixture, grades, i) for i in range(len(GRADES))], axis=1)


def _conditional(mixture: Mixture, grades: np.ndarray, which: int) -> np.ndarray:
    """Return the log-probability [n] of grade number `which`, given the others."""
    densities = []
    for value in range(CLASSES[which]):
        changed = np.array(grades)
        changed[:, which] = value
        densities.append(log_density_on_host(mixture, one_hot(changed)))
    given = np.stack(densities, axis=1)[np.arange(len(grades)), grades[:, which]]
    return given - logsumexp(densities, axis=0)


def judge(grades: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Judge the knees of a cohort by mixtures fitted to the same cohort, mistakes included.

    The log-density is that of the published mixture. Surprise is averaged over a committee of
    mixtures, since single fits depend on their initial values. To keep mistakes from explaining
    themselves, the committee's components share one covariance (one of its own can shrink onto a
    handful of similar mistakes), and it is fitted twice, the second time without the most
    surprising knees. Fitting to other subjects than those judged found fewer planted mistakes in
    2,000 knees: what is rare but right is then often new.

    Args:
        grades: Grades, int [n, 7], none missing.
        seed: Random seed of the fits.

    Returns:
        Log-density [n] and surprise [n, 7], both float64.

    Raises:
        UserError: There are too few knees.
    """
    fewest = 4 * NUM_COMPONENTS
    if len(grades) < fewest:
        raise UserError(
            f"{len(grades)} knees of the table have all seven grades: at least {fewest} are needed "
            "to tell which are incoherent"
        )
    # Few combinations of grades occur, each in many knees.
    distinct, which = np.unique(grades, axis=0, return_inverse=True)
    density = log_density_on_host(fit(grades, seed=seed), one_hot(distinct))
    trusted = np.ones(len(grades), bool)
    for _ in range(2):
        codes = one_hot(grades[trusted])
        committee = [
            _fit(codes, NUM_COMPONENTS, COMMITTEE_SIGMA, 2, "tied", seed + number)
            for number in range(COMMITTEE_SIZE)
        ]
        surprises = np.mean([surprise(mixture, distinct) for mixture in committee], axis=0)
        worst = surprises.max(axis=1)[which.reshape(-1)]
        trusted = worst <= np.quantile(worst, 1 - SUSPECT_SHARE)
    return density[which.reshape(-1)], surprises[which.reshape(-1)]


def list_suspects(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Order the knees of a table by the incoherence of their grades, the worst first.

    Args:
        table: Table with one row per knee and visit, with the seven grades, `MISSING` or empty
            where not read; knees that lack a grade are not listed.
        seed: Random seed of the fits.

    Returns:
        The table's other columns and its grades, then `log_density`, `surprise` (in nats, of the
        grade that the others suggest least), `suspect` (that grade) and `incoherence`, by which
        they are ordered: the surprise plus `RARE_WEIGHT` times the amount by which the log-density
        is below `RARE`. One misread grade shows in the surprise; if several are wrong, each is less
        of a surprise, but the knee has a low density.

    Raises:
        UserError: A column is missing, a value is not a grade, or there are too few knees.
    """
    if absent := [name for name in GRADES if name not in table]:
        raise UserError(
            f"the table of grades lacks the column {', '.join(absent)}; it has "
            f"{', '.join(map(str, table.columns))}"
        )
    grades_read = table[list(GRADES)].astype("string").fillna("")
    blank = grades_read.apply(is_missing)
    values = grades_read.apply(numbers).mask(blank, MISSING)
    for grade, classes in zip(GRADES, CLASSES):
        wrong = ~values[grade].isin((MISSING, *range(classes))).to_numpy()
        if wrong.any():
            raise UserError(
                f"row {int(wrong.argmax()) + 1} of the table has {grade} = "
                f"{table[grade].iloc[int(wrong.argmax())]}: whole grades 0 to {classes - 1}, or "
                f"{MISSING} where not read"
            )
    known = (values != MISSING).all(axis=1).to_numpy()
    knees, grades = table[known], values[known].to_numpy(np.int8)
    density, surprises = judge(grades, seed)
    listing = knees[[name for name in table if name not in GRADES]].copy()
    listing[list(GRADES)] = grades
    listing["log_density"] = density
    listing["surprise"] = surprises.max(axis=1)
    listing["suspect"] = np.array(GRADES)[surprises.argmax(axis=1)]
    rare = np.maximum(RARE - density, 0.0)
    listing["incoherence"] = listing["surprise"] + RARE_WEIGHT * rare
    return listing.sort_values("incoherence", ascending=False, kind="stable")

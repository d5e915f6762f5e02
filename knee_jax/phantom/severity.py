"""Severity of the phantom's osteoarthritis: a latent model of a cohort, and its readers.

Each feature of a knee (four osteophytes, two narrowings) has a continuous latent severity, built
from a common severity and a varus-valgus tendency, shared in part between the two knees of a
subject, and growing over the visits. Thresholds turn it into grades so that the *read* grades have
the marginals of Tiulpin & Saarakkala 2020, Table 1.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm

from knee_jax.errors import UserError
from knee_jax.targets.grades import GRADES, MISSING

SIDES = ("R", "L")
FEATURES = GRADES[1:]
OSTEOPHYTES = FEATURES[:4]


@dataclasses.dataclass(frozen=True)
class Cohort:
    """Visits of a study, and the severity of its knees.

    Attributes:
        schedule: Months of the visits whose films were read.
        marginals: Number of knees per grade, in the order of `GRADES`: the row of Table 1.
        reference_visits: Number of visits, from the first, that have those marginals.
        loadings: Loadings of the six features on (severity, varus).
        stream: Key that separates the random numbers of this cohort from another's with the same
            seed.
        decimals: Whether readers mark grades that are nearly reached.
    """

    schedule: tuple[int, ...]
    marginals: tuple[tuple[int, ...], ...]
    reference_visits: int
    loadings: tuple[tuple[float, float], ...]
    stream: tuple[int, ...] = ()
    decimals: bool = False

    def rng(self, seed: int, number: int, *purpose: int) -> np.random.Generator:
        """Return the random generator of subject `number` for one purpose."""
        sequence = np.random.SeedSequence([seed, number, *purpose], spawn_key=self.stream)
        return np.random.default_rng(sequence)

    @property
    def normals(self) -> int:
        """Number of standard normals behind a subject's latents."""
        return 2 + 3 * 8 + 12 + 12 * len(self.schedule)


# Narrowing of the two compartments is nearly exclusive in Table 1: KL 4 has as many knees as JSN 3
# lateral and medial together, KL 3 as JSN 2.
_OAI_LOADINGS = (
    (0.80, -0.22), (0.84, 0.16), (0.80, -0.22), (0.82, 0.12), (0.22, -0.78), (0.45, 0.66)
)  # fmt: skip
# In MOST the signs coincide more: 42 % of the knees have none (KL 0), and yet 45 % a medial tibial
# osteophyte and 37 % medial narrowing.
_MOST_LOADINGS = (
    (0.95, -0.10), (0.96, 0.08), (0.95, -0.10), (0.96, 0.06), (0.40, -0.75), (0.80, 0.45)
)  # fmt: skip

OAI = Cohort(
    schedule=(0, 12, 24, 36, 48, 72, 96),
    marginals=(
        (2434, 2632, 8538, 4698, 1402),
        (11567, 4698, 1748, 1691),
        (10085, 4453, 2068, 3098),
        (11894, 5167, 1169, 1474),
        (6960, 9181, 2112, 1451),
        (17044, 1160, 1061, 439),
        (9234, 5765, 3735, 970),
    ),
    reference_visits=4,
    loadings=_OAI_LOADINGS,
)
"""Osteoarthritis Initiative, 19,704 knees: Tiulpin & Saarakkala 2020, Table 1."""

MOST = Cohort(
    schedule=(0, 15, 30, 60, 84),
    marginals=(
        (4899, 1922, 1838, 2087, 997),
        (9008, 1336, 795, 604),
        (7968, 1218, 996, 1561),
        (8596, 1978, 647, 522),
        (6441, 3458, 1212, 632),
        (10593, 465, 442, 243),
        (7418, 1865, 1721, 739),
    ),
    reference_visits=5,
    loadings=_MOST_LOADINGS,
    stream=(1,),
    decimals=True,
)
"""Multicenter Osteoarthritis Study, 11,743 knees: Tiulpin & Saarakkala 2020, Table 1."""

# Shares of variance that the two knees of a subject have in common: factors, then features.
_SHARED = np.array([0.8, 0.4] + 6 * [0.4])
# Standard deviation of a reading, in units of the latent's, and the part of its variance that
# persists over the visits: follow-up films are read beside the earlier ones.
_READER_SD, _READER_PERSISTENCE = 0.25, 0.8

# Shares of follow-up visits without a film, of unread films, of knees with a bad film, of knees
# with a lost reading, and of pairs with KL 0-1 whose other features were not scored.
_ABSENT, _UNREAD, _TECHNICAL, _LOST, _UNSCORED = 0.06, 0.08, 0.01, 0.01, 0.12

# Distance from the next grade that readers report as nearly reached, in units of the latent's
# standard deviation.
_NEARLY = 0.12


def _latents(cohort: Cohort, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the latent severities, true and as read, both [subject, visit, side, feature].

    Args:
        cohort: Cohort with the visits.
        normals: Independent standard normals, [subject, cohort.normals].
    """
    count = len(normals)
    pace, base, persistent, passing = np.split(normals, np.cumsum([2, 24, 12]), axis=1)
    base = base.reshape(count, 3, 8)
    knee = np.sqrt(_SHARED) * base[:, :1] + np.sqrt(1 - _SHARED) * base[:, 1:]
    factors, unique = knee[..., :2], knee[..., 2:]
    loadings = np.array(cohort.loadings)
    own = np.sqrt(1 - np.sum(loadings**2, axis=1))
    start = factors @ loadings.T + unique * own

    # Few knees progress much within eight years; narrowing continues in the loaded compartment.
    years = np.array(cohort.schedule)[:, None, None] / 12
    rate = 0.04 * np.exp(0.9 * pace)[:, None] * years.squeeze(-1)
    medial = 1 / (1 + np.exp(-2 * factors[..., 1]))
    growth = np.stack([*4 * [np.ones_like(medial)], 1 - medial, 2 * medial], axis=-1)
    latent = start[:, None] + rate[..., None] * growth[:, None]

    shape = (count, len(cohort.schedule), 2, 6)
    error = np.sqrt(_READER_PERSISTENCE) * persistent.reshape(count, 1, 2, 6)
    error = error + np.sqrt(1 - _READER_PERSISTENCE) * passing.reshape(shape)
    return latent, latent + _READER_SD * error


@functools.cache
def thresholds(cohort: Cohort) -> tuple[np.ndarray, tuple[float, float]]:
    """Compute the cuts of the latents that give the cohort's marginals, from many subjects.

    Returns:
        Cuts [6 features, 3] between grades 0|1, 1|2, 2|3, and the band of possible osteophytes
        about the first cut, in units of the latents: below it KL is 0, above it 2.
    """
    normals = np.random.default_rng(0).standard_normal((30_000, cohort.normals))
    read = _latents(cohort, normals)[1][:, : cohort.reference_visits].reshape(-1, 6)
    shares = np.array([np.cumsum(counts)[:3] / np.sum(counts) for counts in cohort.marginals[1:]])
    cuts = np.stack([np.quantile(read[:, i], shares[i]) for i in range(6)])
    largest = _largest_osteophyte(read, cuts)
    kl0, kl01 = np.cumsum(cohort.marginals[0])[:2] / np.sum(cohort.marginals[0])
    wide = np.all(read[:, 4:] < cuts[4:, 0], axis=1)
    definite = np.all(read[:, 4:] < cuts[4:, 1], axis=1)
    low = np.quantile(largest[wide], kl0 / np.mean(wide))
    high = np.quantile(largest[definite], kl01 / np.mean(definite))
    return cuts, (min(float(low), 0.0), float(high))


def _largest_osteophyte(latent: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Return the distance of the largest osteophyte beyond its first cut; infinite from grade 2."""
    beyond = np.max(latent[..., :4] - cuts[:4, 0], axis=-1)
    return np.where(np.any(latent[..., :4] >= cuts[:4, 1], axis=-1), np.inf, beyond)


def grade(cohort: Cohort, latent: np.ndarray) -> np.ndarray:
    """Grade latents [..., 6 features]; return [..., 7] in the order of `GRADES`.

    KL follows from the other six (Kellgren & Lawrence 1957, as used in OAI): 4 and 3 when the worst
    narrowing is 3 and 2; otherwise 2 with a definite osteophyte; 1 with a possible one or narrowing
    1.
    """
    cuts, (low, high) = thresholds(cohort)
    features = np.sum(latent[..., None] >= cuts, axis=-1)
    narrowing = np.max(features[..., 4:], axis=-1)
    largest = _largest_osteophyte(latent, cuts)
    kl = np.select(
        [narrowing >= 2, largest >= high, (largest >= low) | (narrowing == 1)],
        [narrowing + 1, 2, 1],
        0,
    )
    return np.concatenate([kl[..., None], features], axis=-1).astype(np.int8)


def nearly(cohort: Cohort, latent: np.ndarray) -> np.ndarray:
    """Return whether KL 2, and the next narrowing lateral and medial, is nearly reached, [..., 3].

    Args:
        cohort: Cohort with the thresholds.
        latent: Latents as read, [..., 6 features].
    """
    cuts, (_, high) = thresholds(cohort)
    missing_kl = high - _largest_osteophyte(latent, cuts)
    kl = (grade(cohort, latent)[..., 0] == 1) & (missing_kl < _NEARLY)
    missing = cuts[4:] - latent[..., 4:, None]
    narrowing = np.any((missing > 0) & (missing < _NEARLY), axis=-1)
    return np.concatenate([kl[..., None], narrowing], axis=-1)


def spur_mm(cohort: Cohort, latent: np.ndarray) -> np.ndarray:
    """Return the lengths of the four osteophytes, mm, [..., 4], from latents [..., 6 features].

    In the OARSI atlas (Altman & Gold 2007) grades 1, 2, 3 are about 2, 4, 7 mm on the film.
    """
    lengths = (0.0, 1.2, 3.2, 5.2, 9.0)
    cells = [
        np.interp(latent[..., i], [c[0] - 0.3, *c, c[2] + 1.2], lengths)
        for i, c in enumerate(thresholds(cohort)[0][:4])
    ]
    return np.stack(cells, axis=-1)


def lost_space(cohort: Cohort, latent: np.ndarray) -> np.ndarray:
    """Return the fraction 0..1 of joint space lost, lateral and medial [..., 2], from latents."""
    lost = (0.0, 0.2, 0.45, 0.78, 0.98)
    cuts = thresholds(cohort)[0][4:]
    cells = [
        np.interp(latent[..., 4 + i], [c[0] - 0.8, *c, c[2] + 0.6], lost)
        for i, c in enumerate(cuts)
    ]
    return np.stack(cells, axis=-1)


def _codes(
    cohort: Cohort, latent: np.ndarray, read: np.ndarray, chance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the codes of unread knees, and whether knees are filmed: [subject, visit, side] each.

    Args:
        cohort: Cohort with the visits.
        latent: Latents, [subject, visit, side, 6 features].
        read: Grades [subject, visit, side, 7].
        chance: Uniform draws, [subject, visit, side, 5].
    """
    shape = read.shape[:3]
    later = (np.array(cohort.schedule) > 0)[:, None]
    # A knee is replaced once its narrowing exceeds grade 3 by an amount of its own.
    worst = np.max(latent[..., 4:] - thresholds(cohort)[0][4:, 2], axis=-1)
    replaced = later & (worst > 0.4 + 1.2 * np.abs(norm.ppf(chance[:, :1, :, 0])))
    # Both knees are on one film, and are read together.
    absent = later & (chance[:, :, :1, 1] < _ABSENT)
    unread = np.broadcast_to(chance[:, :, :1, 2] < _UNREAD, shape)
    technical, missing = chance[..., 3] < _TECHNICAL, chance[..., 3] > 1 - _LOST
    mild = np.all(read[..., 0] < 2, axis=-1, keepdims=True)
    unscored = mild & (chance[:, :, :1, 4] < _UNSCORED)
    code = np.select([unread, replaced, technical, missing, unscored], list("UPTMA"), "")
    return code, np.broadcast_to(~absent, shape).copy()


def describe(cohort: Cohort, seed: int, numbers: Iterable[int]) -> pd.DataFrame:
    """Draw the subjects' `age` in whole years and `bmi` in kg/m², NaN for one in 200.

    The severity of their knees depends on neither.

    Args:
        cohort: Cohort with the random numbers.
        seed: Random seed of the cohort.
        numbers: Numbers of the subjects.
    """
    draws = np.array([cohort.rng(seed, number, 10).standard_normal(2) for number in numbers])
    # Approximately as in both studies.
    return pd.DataFrame(
        {
            "age": np.clip(np.round(61.5 + 9 * draws[:, 0]), 45, 79).astype(int),
            "bmi": np.where(draws[:, 1] > 2.6, np.nan, np.round(29 + 4.8 * draws[:, 1], 1)),
        }
    )


def replacements(knees: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the first visit (months) at which each subject's joint was seen replaced, by side.

    Args:
        knees: Table of `simulate`, with the column `subject`.
    """
    seen = knees[knees["code"] == "P"]
    return {side: seen[seen["side"] == side].groupby("subject")["visit"].min() for side in SIDES}


def simulate(
    num_subjects: int,
    *,
    visits: Sequence[int] | None = None,
    seed: int = 0,
    cohort: Cohort = OAI,
) -> pd.DataFrame:
    """Simulate a cohort: one row per subject, visit and side for which a film exists.

    A subject is the same whatever the number of subjects and visits.

    Args:
        num_subjects: Number of subjects, above 0.
        visits: Months of the cohort's schedule; None: all of them.
        seed: Random seed of the cohort.
        cohort: Cohort whose marginals the grades have.

    Returns:
        Table with columns `number` (of the subject, from 0), `visit` (months), `side` (R or L),
        `pace` (of worsening, a standard normal that is invisible on films), `true_<grade>`,
        `read_<grade>` (-1 where not read), `code` (reason for that: P prosthesis, T technical, A
        not expected, M missing, U no row in any table; or empty), `spur_<feature>` (mm),
        `lost_<feature>` (fraction of the joint space). If the cohort has decimals also `nearly_kl`,
        `nearly_jsl`, `nearly_jsm` (`nearly`).

    Raises:
        UserError: There are no subjects, or a visit is not in the schedule.
    """
    if num_subjects < 1:
        raise UserError(f"a cohort needs at least 1 subject, not {num_subjects}")
    schedule = cohort.schedule
    if unknown := sorted(set(visits or ()) - set(schedule)):
        raise UserError(f"no films are read at months {unknown}; choose from {schedule}")
    chosen = [i for i, month in enumerate(schedule) if visits is None or month in visits]
    streams = [cohort.rng(seed, number, 0) for number in range(num_subjects)]
    normals = np.stack([stream.standard_normal(cohort.normals) for stream in streams])
    latent, seen = _latents(cohort, normals)
    chance = np.stack([stream.random((len(schedule), 2, 5)) for stream in streams])
    true, read = grade(cohort, latent), grade(cohort, seen)
    code, filmed = _codes(cohort, latent, read, chance)
    read = np.where(np.isin(code, ["U", "P", "T", "M"])[..., None], MISSING, read)
    read[..., 1:] = np.where((code == "A")[..., None], MISSING, read[..., 1:])

    filmed &= np.isin(np.arange(len(schedule)), chosen)[:, None]
    number, visit, side = np.nonzero(filmed)
    at = (number, visit, side)
    frame = pd.DataFrame({"number": number, "visit": np.array(schedule)[visit]})
    frame["side"] = np.array(SIDES)[side]
    frame["pace"] = normals[number, side]
    for i, name in enumerate(GRADES):
        frame[f"true_{name}"] = true[at][:, i]
        frame[f"read_{name}"] = read[at][:, i]
    frame["code"] = code[at]
    for i, name in enumerate(OSTEOPHYTES):
        frame[f"spur_{name}"] = spur_mm(cohort, latent)[at][:, i]
    for i, name in enumerate(FEATURES[4:]):
        frame[f"lost_{name}"] = lost_space(cohort, latent)[at][:, i]
    if cohort.decimals:
        near = nearly(cohort, seen)[at]
        for i, name in enumerate(("kl", "jsl", "jsm")):
            frame[f"nearly_{name}"] = near[:, i] & (frame[f"read_{name}"] >= 0)
    return frame

"""How ill the phantom's knees are: a latent-severity model of a cohort, read by imperfect readers.

Each feature of a knee (four osteophytes, two narrowings) has a continuous latent severity, built
from a common severity and a varus-valgus tendency, shared in part between the two knees of a
subject, and growing over the visits. Thresholds cut it into grades so that the *read* grades have
the marginals of Tiulpin & Saarakkala 2020, Table 1 (OAI).
"""

import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm

from knee_jax.errors import UserError
from knee_jax.grades import GRADES, MISSING

SCHEDULE = (0, 12, 24, 36, 48, 72, 96)
"""Months of the visits at which OAI's films were read."""

SIDES = ("R", "L")
FEATURES = GRADES[1:]
OSTEOPHYTES = FEATURES[:4]

TABLE_1 = {
    "kl": (2434, 2632, 8538, 4698, 1402),
    "osfl": (11567, 4698, 1748, 1691),
    "osfm": (10085, 4453, 2068, 3098),
    "ostl": (11894, 5167, 1169, 1474),
    "ostm": (6960, 9181, 2112, 1451),
    "jsl": (17044, 1160, 1061, 439),
    "jsm": (9234, 5765, 3735, 970),
}
"""Knees per grade, 19,704 in all: Tiulpin & Saarakkala 2020, Table 1, OAI."""

# Loadings of the six features on (severity, varus). Narrowing of the two compartments is nearly
# exclusive in Table 1: KL 4 has as many knees as JSN 3 lateral and medial together, KL 3 as JSN 2.
_LOADINGS = np.array(
    [[0.80, -0.22], [0.84, 0.16], [0.80, -0.22], [0.82, 0.12], [0.22, -0.78], [0.45, 0.66]]
)
_UNIQUE = np.sqrt(1 - np.sum(_LOADINGS**2, axis=1))
# Share of the variance that the two knees of a subject have in common: factors, then features.
_SHARED = np.array([0.8, 0.4] + 6 * [0.4])
# The SD of a reading, in units of the latent's SD, and how much of it stays from visit to visit:
# follow-up films are read beside the earlier ones.
_READER_SD, _READER_PERSISTENCE = 0.25, 0.8

# Shares of follow-up visits without a film, of films that nobody read, of knees of which the film
# or the reading is bad or lost, and of pairs with KL 0-1 whose other features nobody scored.
_ABSENT, _UNREAD, _TECHNICAL, _LOST, _UNSCORED = 0.06, 0.08, 0.01, 0.01, 0.12

_NORMALS = 2 + 3 * 8 + 12 + 12 * len(SCHEDULE)


def _latents(normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latent severities as they are and as read, both [subject, visit, side, feature].

    Args:
        normals: independent standard normals, [subject, _NORMALS].
    """
    count = len(normals)
    pace, base, persistent, passing = np.split(normals, np.cumsum([2, 24, 12]), axis=1)
    base = base.reshape(count, 3, 8)
    knee = np.sqrt(_SHARED) * base[:, :1] + np.sqrt(1 - _SHARED) * base[:, 1:]
    factors, unique = knee[..., :2], knee[..., 2:]
    start = factors @ _LOADINGS.T + unique * _UNIQUE

    # Few knees progress much within eight years; narrowing goes on in the loaded compartment.
    years = np.array(SCHEDULE)[:, None, None] / 12
    rate = 0.04 * np.exp(0.9 * pace)[:, None] * years.squeeze(-1)
    medial = 1 / (1 + np.exp(-2 * factors[..., 1]))
    growth = np.stack([*4 * [np.ones_like(medial)], 1 - medial, 2 * medial], axis=-1)
    latent = start[:, None] + rate[..., None] * growth[:, None]

    shape = (count, len(SCHEDULE), 2, 6)
    error = np.sqrt(_READER_PERSISTENCE) * persistent.reshape(count, 1, 2, 6)
    error = error + np.sqrt(1 - _READER_PERSISTENCE) * passing.reshape(shape)
    return latent, latent + _READER_SD * error


@functools.cache
def thresholds() -> tuple[np.ndarray, tuple[float, float]]:
    """Cuts of the latents that give Table 1's marginals, from a large reference cohort.

    Returns:
        cuts [6 features, 3] between grades 0|1, 1|2, 2|3, and the band of possible osteophytes
        about the first cut, in units of the latents: below it KL is 0, above it 2.
    """
    normals = np.random.default_rng(0).standard_normal((30_000, _NORMALS))
    read = _latents(normals)[1][:, :4].reshape(-1, 6)
    shares = np.array([np.cumsum(TABLE_1[f])[:3] / np.sum(TABLE_1[f]) for f in FEATURES])
    cuts = np.stack([np.quantile(read[:, i], shares[i]) for i in range(6)])
    largest = np.max((read - cuts[:, 0])[:, :4], axis=1)
    kl0, kl01 = np.cumsum(TABLE_1["kl"])[:2] / np.sum(TABLE_1["kl"])
    wide = np.all(read[:, 4:] < cuts[4:, 0], axis=1)
    definite = np.all(read[:, 4:] < cuts[4:, 1], axis=1)
    low = np.quantile(largest[wide], kl0 / np.mean(wide))
    high = np.quantile(largest[definite], kl01 / np.mean(definite))
    return cuts, (min(float(low), 0.0), float(high))


def grade(latent: np.ndarray) -> np.ndarray:
    """Grades [..., 7] in the order of `GRADES`, from latents [..., 6 features].

    KL follows from the other six (Kellgren & Lawrence 1957, in OAI's use): 4 and 3 when the worst
    narrowing is 3 and 2; else 2 with a definite osteophyte; 1 with a possible one or narrowing 1.
    """
    cuts, (low, high) = thresholds()
    features = np.sum(latent[..., None] >= cuts, axis=-1)
    narrowing = np.max(features[..., 4:], axis=-1)
    largest = np.max(latent[..., :4] - cuts[:4, 0], axis=-1)
    kl = np.select(
        [narrowing >= 2, largest >= high, (largest >= low) | (narrowing == 1)],
        [narrowing + 1, 2, 1],
        0,
    )
    return np.concatenate([kl[..., None], features], axis=-1).astype(np.int8)


def spur_mm(latent: np.ndarray) -> np.ndarray:
    """Lengths in mm of the four osteophytes, [..., 4], from latents [..., 6 features].

    In the OARSI atlas (Altman & Gold 2007) grades 1, 2, 3 are about 2, 4, 7 mm on the film.
    """
    lengths = (0.0, 1.2, 3.2, 5.2, 9.0)
    cells = [
        np.interp(latent[..., i], [c[0] - 0.3, *c, c[2] + 1.2], lengths)
        for i, c in enumerate(thresholds()[0][:4])
    ]
    return np.stack(cells, axis=-1)


def lost_space(latent: np.ndarray) -> np.ndarray:
    """Fraction 0..1 of the joint space lost, lateral and medial [..., 2], from [..., 6] latents."""
    lost = (0.0, 0.2, 0.45, 0.78, 0.98)
    cuts = thresholds()[0][4:]
    cells = [
        np.interp(latent[..., 4 + i], [c[0] - 0.8, *c, c[2] + 0.6], lost)
        for i, c in enumerate(cuts)
    ]
    return np.stack(cells, axis=-1)


def _codes(
    latent: np.ndarray, read: np.ndarray, chance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Why a knee is not read, and whether it is filmed at all: [subject, visit, side] each.

    Args:
        latent: [subject, visit, side, 6 features].
        read: grades [subject, visit, side, 7].
        chance: uniform draws, [subject, visit, side, 5].
    """
    shape = read.shape[:3]
    later = (np.array(SCHEDULE) > 0)[:, None]
    # A knee is replaced once its narrowing is far beyond grade 3: how far, is each knee's own.
    worst = np.max(latent[..., 4:] - thresholds()[0][4:, 2], axis=-1)
    replaced = later & (worst > 0.4 + 1.2 * np.abs(norm.ppf(chance[:, :1, :, 0])))
    # Both knees are on one film, and are read together.
    absent = later & (chance[:, :, :1, 1] < _ABSENT)
    unread = np.broadcast_to(chance[:, :, :1, 2] < _UNREAD, shape)
    technical, missing = chance[..., 3] < _TECHNICAL, chance[..., 3] > 1 - _LOST
    mild = np.all(read[..., 0] < 2, axis=-1, keepdims=True)
    unscored = mild & (chance[:, :, :1, 4] < _UNSCORED)
    code = np.select([unread, replaced, technical, missing, unscored], list("UPTMA"), "")
    return code, np.broadcast_to(~absent, shape).copy()


def simulate(num_subjects: int, *, visits: Sequence[int] = SCHEDULE, seed: int = 0) -> pd.DataFrame:
    """The cohort's knees, one row per subject, visit and side for which a film exists.

    A subject is the same whatever the number of subjects and visits.

    Args:
        num_subjects: how many subjects, > 0.
        visits: months, of `SCHEDULE`.
        seed: of the cohort.

    Returns:
        Columns `number` (of the subject, from 0), `visit` (months), `side` (R or L),
        `true_<grade>`, `read_<grade>` (-1 where not read), `code` (why not: P prosthesis, T
        technical, A not expected, M missing, U no row in any table, or empty), `spur_<feature>`
        (mm), `lost_<feature>` (fraction of the joint space).

    Raises:
        UserError: there are no subjects, or a visit is not of the schedule.
    """
    if num_subjects < 1:
        raise UserError(f"a cohort needs at least 1 subject, not {num_subjects}")
    if unknown := sorted(set(visits) - set(SCHEDULE)):
        raise UserError(f"no films are read at months {unknown}; choose from {SCHEDULE}")
    chosen = [SCHEDULE.index(month) for month in sorted(visits)]
    streams = [np.random.default_rng([seed, number, 0]) for number in range(num_subjects)]
    latent, seen = _latents(np.stack([stream.standard_normal(_NORMALS) for stream in streams]))
    chance = np.stack([stream.random((len(SCHEDULE), 2, 5)) for stream in streams])
    true, read = grade(latent), grade(seen)
    code, filmed = _codes(latent, read, chance)
    read = np.where(np.isin(code, ["U", "P", "T", "M"])[..., None], MISSING, read)
    read[..., 1:] = np.where((code == "A")[..., None], MISSING, read[..., 1:])

    filmed &= np.isin(np.arange(len(SCHEDULE)), chosen)[:, None]
    number, visit, side = np.nonzero(filmed)
    at = (number, visit, side)
    frame = pd.DataFrame({"number": number, "visit": np.array(SCHEDULE)[visit]})
    frame["side"] = np.array(SIDES)[side]
    for i, name in enumerate(GRADES):
        frame[f"true_{name}"] = true[at][:, i]
        frame[f"read_{name}"] = read[at][:, i]
    frame["code"] = code[at]
    for i, name in enumerate(OSTEOPHYTES):
        frame[f"spur_{name}"] = spur_mm(latent)[at][:, i]
    for i, name in enumerate(FEATURES[4:]):
        frame[f"lost_{name}"] = lost_space(latent)[at][:, i]
    return frame

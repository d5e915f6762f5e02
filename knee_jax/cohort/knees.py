"""List of a run's knees (`knees.csv`): who was trained on, who is scored, and leaks between them.

It is written before the first step. Whoever resumes or evaluates the run goes by it, so that a
prepared set that was made again deals no subject anew.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from knee_jax.data.prepared import FINGERPRINT, PreparedSet
from knee_jax.data.subsets import Selected
from knee_jax.errors import UserError
from knee_jax.ingest import fingerprint

FILE = "knees.csv"

IDENTITY = ("cohort", "subject", "side", "visit")
COLUMNS = ("part", "dataset", "prepared", *IDENTITY, *FINGERPRINT)

UNUSED = "unused"
"""Part of the knees of a set that the run leaves out."""

KNOWN = "known"
"""Part of the knees that are left out of those to be scored, since the network knows them."""

INITIAL = "initial"
"""Part of the knees that the initial weights were trained on."""

LEARNT_FROM = ("train", "unlabelled", "validation", INITIAL)
"""Parts that a network has seen: trained on, or used to choose its checkpoint."""

LEAKS = ("subject", "pixels", "near_duplicate")
"""Ways in which a network can know a knee: its subject, its very pixels, or another version of its
picture.
"""

PSEUDONYM = "sha256:"
"""Beginning of a subject that is named by a checksum of cohort and id."""

_CHUNK = 64


def list_knees(parts: Mapping[str, Selected], names: Mapping[str, str]) -> pd.DataFrame:
    """List all knees of the prepared sets of a run.

    Args:
        parts: Knees of each part.
        names: Name of the prepared set of each part.

    Returns:
        Table of text with the columns `COLUMNS`: the part (`UNUSED` for knees of no part), the name
        and fingerprint of the prepared set, and identity and fingerprint of the knee.
    """
    sets = {id(part.prepared): (part.prepared, names[name]) for name, part in parts.items()}
    tables = []
    for prepared, dataset in sets.values():
        part_of = np.full(len(prepared.index), UNUSED, object)
        for name, selected in parts.items():
            if selected.prepared is prepared:
                part_of[selected.rows] = name
        tables.append(describe(prepared).assign(part=part_of, dataset=dataset))
    table = pd.concat(tables, ignore_index=True)[list(COLUMNS)].astype(str)
    return table


def describe(prepared: PreparedSet) -> pd.DataFrame:
    """Return identity and fingerprint of every knee of a set, and the set's own fingerprint.

    Raises:
        UserError: The set holds a knee twice.
    """
    table = prepared.index.reindex(columns=[*IDENTITY, *FINGERPRINT]).fillna("").astype(str)
    twice = table[table.duplicated(list(IDENTITY), keep=False)]
    if len(twice):
        knee = " ".join(twice.iloc[0][["subject", "side", "visit"]])
        raise UserError(
            f"{prepared.path} holds {len(twice)} knees more than once, such as {knee}: delete it "
            "to prepare it again, which lists them among the exclusions"
        )
    unknown = np.flatnonzero(table["checksum"] == "")
    if len(unknown):
        # A set prepared by a version that kept no fingerprints.
        print(f"{prepared.path}: reading {len(unknown):,} knees, since it holds no checksums")
        table.loc[table.index[unknown], list(FINGERPRINT)] = list(_read(prepared, unknown))
    return table.assign(prepared=prepared.fingerprint)


def _read(prepared: PreparedSet, rows: np.ndarray) -> Iterator[tuple[str, str]]:
    for chunk in np.array_split(rows, -(-len(rows) // _CHUNK)):
        for pixels in prepared.load(chunk)[prepared.pixels]:
            yield fingerprint.checksum(pixels), fingerprint.perceptual_hash(pixels)


def read(path: Path) -> pd.DataFrame:
    """Read a list of knees.

    Raises:
        UserError: The file is missing or holds no list of knees.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        text = ""
    return parse(text, str(path))


def parse(text: str, source: str) -> pd.DataFrame:
    """Return the list of knees that a text holds, CSV.

    Args:
        text: Result of `text_of`.
        source: What the text was read from, for messages.

    Raises:
        UserError: It holds no list of knees.
    """
    try:
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    except ValueError:
        table = pd.DataFrame()
    if missing := [name for name in COLUMNS if name not in table]:
        raise UserError(f"{source}: is no list of knees ({', '.join(missing)} is missing)")
    return table[list(COLUMNS)]


def text_of(table: pd.DataFrame) -> str:
    """Return a list of knees as CSV."""
    return table.to_csv(index=False, lineterminator="\n")


def learnt_from(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a list that a network has seen."""
    return table[table["part"].isin(LEARNT_FROM)]


def under_pseudonyms(table: pd.DataFrame) -> pd.DataFrame:
    """Return a list in which subjects are pseudonyms, and nothing else tells who they are.

    `leaks` knows the subjects again. Whoever has all ids of a study can find out which of them are
    in the list, by trying.
    """
    hidden = table.assign(subject=_people(table), cohort="", side="", visit="")
    return hidden.sort_values(["subject", "checksum"])


def _people(table: pd.DataFrame) -> pd.Series:
    """Return the pseudonym of every knee's subject."""

    def pseudonym(cohort: str, subject: str) -> str:
        if subject.startswith(PSEUDONYM):
            return subject
        return PSEUDONYM + hashlib.sha256(f"{cohort}\0{subject}".encode()).hexdigest()[:16]

    people = [pseudonym(*pair) for pair in zip(table["cohort"], table["subject"], strict=True)]
    return pd.Series(people, table.index, dtype=object)


def rows_of(table: pd.DataFrame, knees: pd.DataFrame) -> np.ndarray:
    """Return the row of each listed knee in `describe(set)`, int64 [n]; -1 where it is gone."""
    known = pd.MultiIndex.from_frame(knees[list(IDENTITY)])
    return known.get_indexer(pd.MultiIndex.from_frame(table[list(IDENTITY)])).astype(np.int64)


def leaks(learnt: pd.DataFrame, scored: pd.DataFrame) -> np.ndarray:
    """Return how a network that has learnt from some knees knows others, object [n].

    Args:
        learnt: Knees that the network has seen, with the columns `COLUMNS`.
        scored: Knees that are to be scored, with the same columns.

    Returns:
        The first of `LEAKS` that holds for each scored knee, or ''.
    """
    found = np.full(len(scored), "", object)
    if not len(learnt) or not len(scored):
        return found
    near = _near(learnt["perceptual_hash"], scored["perceptual_hash"])
    found[near] = "near_duplicate"
    found[scored["checksum"].isin(learnt["checksum"]).to_numpy()] = "pixels"
    found[_people(scored).isin(set(_people(learnt))).to_numpy()] = "subject"
    return found


def say_leaks(part: str, present: pd.DataFrame, known: np.ndarray) -> tuple[str, dict[str, int]]:
    """Say how many knees of a part the network knows, and count them by reason.

    Args:
        part: Name of the part.
        present: Its knees, with the columns `COLUMNS`.
        known: Result of `leaks`.
    """
    people = present["subject"][known == "subject"].nunique()
    words = {
        "subject": f"of {people:,} subjects that it has learnt from",
        "pixels": "whose pixels it has learnt from under another name",
        "near_duplicate": "whose picture, slightly changed, it has learnt from",
    }
    counts = {why: int((known == why).sum()) for why in words}
    said = ", ".join(f"{n:,} {words[why]}" for why, n in counts.items() if n)
    total = f"{sum(counts.values()):,} of {len(known):,} {part} knees are known to the network"
    return f"{total}: {said}", {f"{why}_trained_on": n for why, n in counts.items() if n}


def _near(known: pd.Series, others: pd.Series) -> np.ndarray:
    """Return which of the others is another version of a known picture, bool [n]."""
    found = np.zeros(len(others), bool)
    hashed = np.flatnonzero(others != "")
    ours, theirs = _bits(known[known != ""]), _bits(others.iloc[hashed])
    if not len(ours):
        return found
    # Few pictures agree so far in the first half of their bits; only these are compared whole. A
    # sum that overflows becomes 0, which is compared too.
    halves = np.ascontiguousarray(ours[:, : ours.shape[1] // 2].T)
    for i, bits in zip(hashed, theirs):
        differing = np.bitwise_count(halves[0] ^ bits[0])
        for word in range(1, len(halves)):
            differing += np.bitwise_count(halves[word] ^ bits[word])
        alike = ours[differing <= fingerprint.NEAR]
        found[i] = (np.bitwise_count(alike ^ bits).sum(axis=1) <= fingerprint.NEAR).any()
    return found


def _bits(hashes: pd.Series) -> np.ndarray:
    """Return perceptual hashes as uint64 [n, words]."""
    words = fingerprint.BITS // 64
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint64).reshape(-1, words)

"""A tree of MR series laid out as OAI's → jobs, one a knee, and an account of every knee.

{month}m/{release}/{subject}/{date}/{barcode}/ is a folder of slices, and tables/ holds the readings
of every visit (`readings`), the enrollees and, if replacements are asked for, `outcomes99`.
"""

import collections
import pathlib
from collections.abc import Sequence

from knee_jax.errors import UnusableKnee, UserError
from knee_jax.grades import MISSING
from knee_jax.ingest import dicom, enrolment, progression, readings, series, volume
from knee_jax.ingest.account import Dropped

SERIES = {"SAG_3D_DESS_LEFT": "L", "SAG_3D_DESS_RIGHT": "R"}
"""SeriesDescription of the series that are read → side."""

_UNREAD = (progression.UNKNOWN, MISSING, "unread")


def plan_study(
    root: pathlib.Path,
    cohort: str,
    preparation: volume.Preparation,
    *,
    rule: str = "coded",
    seen: str = "subject",
    visits: Sequence[int] = progression.VISITS,
    outcomes: bool = False,
) -> tuple[list[volume.VolumeJob], list[Dropped], dict[str, int]]:
    """Joins baseline series, progression and sites, and says what is to be read.

    Args:
        root: the study's folder.
        cohort: name of the study.
        preparation: how volumes become examples.
        rule: of `progression.label_progression`.
        seen: of `progression.label_progression`.
        visits: months whose readings count; series of the first one are read.
        outcomes: whether the table `outcomes99` tells of replacements beside the readings.

    Returns:
        Jobs in the order of subject and side, each of which reads one knee; the knees that have no
        series or no label; and counts of other things than knees.

    Raises:
        UserError: no series, a visit without its table, or a table lacks a column.
    """
    baseline = visits[0]
    found, dropped, notes = _find_series(root, baseline)
    tables = root / "tables"
    sites = enrolment.read_sites(tables)
    read, counts = readings.read_readings(tables, visits)
    notes.update(counts)
    labels, account = progression.label_progression(
        progression.tidy(read),
        replacements=progression.read_replacements(tables) if outcomes else None,
        rule=rule,
        visits=visits,
        seen=seen,
    )
    rows_apart = ("replacements_after_the_last_visit", "replacements_of_other_knees")
    notes.update({name: account[name] for name in rows_apart})
    columns = ("subject", "side", "progression", "kl", "reason")
    label_of = {
        (subject, side): (value, kl, reason)
        for subject, side, value, kl, reason in zip(*(labels[name].tolist() for name in columns))
    }

    jobs: list[volume.VolumeJob] = []
    for (subject, side), source in sorted(found.items()):
        value, kl, reason = label_of.pop((subject, side), _UNREAD)
        if reason:
            detail = progression.REASONS.get(reason, "in no table of readings")
            dropped.append(Dropped(subject, side, baseline, source, reason, detail))
            continue
        file = volume.VolumeFile(
            subject=subject,
            side=side,
            visit=baseline,
            cohort=cohort,
            site=sites.get(subject, ""),
            source=source,
            progression=value,
            kl=kl,
        )
        jobs.append(volume.VolumeJob(root, file, preparation))
    dropped += [
        Dropped(subject, side, baseline, "", "no_series", "readings without an MR series")
        for subject, side in sorted(label_of)
    ]
    return jobs, dropped, dict(notes)


def _find_series(
    root: pathlib.Path, visit: int
) -> tuple[dict[tuple[str, str], str], list[Dropped], collections.Counter[str]]:
    """Finds the series of one visit by what their first slice says.

    Returns:
        Path relative to `root` by (subject, side), of several the last, as published; the others
        and those that cannot be read; and counts of `other_series`.
    """
    found: dict[tuple[str, str], str] = {}
    dropped = []
    notes: collections.Counter[str] = collections.Counter(other_series=0)
    for folder in sorted(root.glob(f"{visit:02d}m/*/*/*/*/")):
        source, subject = folder.relative_to(root).as_posix(), folder.parts[-3]
        files = series.slice_files(folder)
        if len(files) < 2:
            continue  # A film.
        try:
            header = dicom.read_header(files[0])
            description = dicom.value(header, "SeriesDescription", "")
        except UnusableKnee as trouble:
            detail = f"{files[0].name}: {trouble.detail}"
            dropped.append(Dropped(subject, "", visit, source, trouble.reason, detail))
            continue
        side = SERIES.get(str(description).strip().upper())
        if side is None:
            notes["other_series"] += 1
            continue
        if earlier := found.get((subject, side)):
            detail = f"{source} was taken again, and counts"
            dropped.append(Dropped(subject, side, visit, earlier, "repeated_series", detail))
        found[subject, side] = source
    if not found:
        layout = f"{visit:02d}m/{{release}}/{{subject}}/{{date}}/{{barcode}}/"
        raise UserError(f"{root}: no series {' or '.join(SERIES)}; they should lie as {layout}")
    return found, dropped, notes

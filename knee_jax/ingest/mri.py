"""A tree of MR series laid out as OAI's → jobs, one a knee, and an account of every knee.

`oai` finds the series, and tables/ holds the readings of every visit (`readings`), the enrollees
and, if replacements are asked for, `outcomes99`.
"""

import pathlib
from collections.abc import Sequence

from knee_jax.errors import UserError
from knee_jax.grades import MISSING
from knee_jax.ingest import enrolment, oai, progression, readings, volume
from knee_jax.ingest.account import Dropped
from knee_jax.ingest.headers import DEFAULT_READER, Reader

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
    with_bmi: bool = False,
    check_subject: bool = True,
    reader: Reader = DEFAULT_READER,
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
        with_bmi: drop knees of subjects whose body mass index is unknown, as Panfilov et al. 2022
            did (section 3.1).
        check_subject: as `inventory.Rules.check_subject`.
        reader: of headers.

    Returns:
        Jobs in the order of subject and side, each of which reads one knee; the knees that have no
        series or no label; and counts of other things than knees.

    Raises:
        UserError: no series, a visit without its table, or a table lacks a column.
    """
    baseline = visits[0]
    images, dropped, notes = oai.find_images(root, reader, [baseline])
    found, lost = oai.choose_series(images, check_subject, notes)
    if not found:
        names = " or ".join(oai.SERIES)
        raise UserError(
            f"{root}: no series {names} of month {baseline}; they should lie as {oai.LAYOUT}"
        )
    dropped += lost
    tables = root / "tables"
    sites = enrolment.read_sites(tables)
    people = enrolment.read_oai(tables).dropna(subset="bmi") if with_bmi else None
    known = None if people is None else set(people["subject"])
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
        detail = progression.REASONS.get(reason, "in no table of readings")
        if not reason and known is not None and subject not in known:
            reason, detail = "no_bmi", "the body mass index is not known"
        if reason:
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

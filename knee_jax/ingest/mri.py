"""A tree of MR series laid out as OAI's → jobs, one a knee, and an account of every knee.

`oai_images` says how series lie, and tables/ holds the readings of every visit (`readings`), the
enrollees and, if replacements are asked for, `outcomes99`.
"""

import collections
import pathlib
from collections.abc import Iterable, Sequence
from typing import NoReturn

from knee_jax.errors import UserError
from knee_jax.grades import MISSING
from knee_jax.ingest import enrolment, progression, readings, volume
from knee_jax.ingest.account import Dropped
from knee_jax.ingest.headers import DEFAULT_READER, Reader
from knee_jax.ingest.inventory import lose_uncertain
from knee_jax.ingest.oai_images import (
    LAYOUT,
    NOT_ON_DISK,
    SERIES,
    UNREADABLE_FOLDER,
    Image,
    find_images,
    sources,
)

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
    images, dropped, notes = find_images(root, reader, [baseline])
    found, lost = _choose_series(images, check_subject, notes)
    if not found:
        _refuse_none(root, baseline, [*dropped, *lost])
    dropped += lost
    tables = root / "tables"
    sites = enrolment.read_sites(tables)
    people = enrolment.read_oai(tables).dropna(subset="bmi") if with_bmi else None
    known = None if people is None else set(people["subject"])
    notes["subjects_unknown_to_enrolment"] = len({subject for subject, _ in found} - set(sites))
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

    notes["knees_in_the_tables"] = len(label_of)

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
            check_subject=check_subject,
        )
        jobs.append(volume.VolumeJob(root, file, preparation))
    # A knee whose series is already accounted for is not lost a second time.
    known_lost = {(knee.subject, knee.side) for knee in dropped}
    dropped += [
        Dropped(subject, side, baseline, "", "no_series", "readings without an MR series")
        for subject, side in sorted(label_of.keys() - known_lost)
    ]
    return jobs, dropped, dict(notes)


def _refuse_none(root: pathlib.Path, baseline: int, lost: Sequence[Dropped]) -> NoReturn:
    """Tells why there is no series."""
    reasons = collections.Counter(each.reason for each in lost)
    seen = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    remedy = f"they should lie as {LAYOUT}"
    if set(reasons) == {"subject_contradicts"}:
        remedy = "if ids in headers were replaced, prepare oai_mri/sagittal_replaced_ids"
    names = " or ".join(SERIES)
    raise UserError(
        f"{root}: no series {names} of month {baseline} can be used (lost: {seen or 'none'}); "
        f"{remedy}"
    )


def _choose_series(
    images: Iterable[Image], check_subject: bool, notes: collections.Counter[str]
) -> tuple[dict[tuple[str, str], str], list[Dropped]]:
    """Finds the MR series that are read, among the images of one visit.

    Returns:
        Their folders by (subject, side); and what is lost: `subject_contradicts`,
        `visit_contradicts`, `not_on_disk`, `unreadable_folder`, `repeated_series`, and reasons of
        files that cannot be read, of series of which none can.
    """
    of_knees: dict[tuple[str, str], list[Image]] = collections.defaultdict(list)
    dropped: list[Dropped] = []
    uncertain = []
    notes["films"] = notes["other_series"] = 0
    for image in images:
        header = image.header
        side = SERIES.get(header.description.upper())
        reason, detail = image.contradicts(check_subject)
        if header.reason == UNREADABLE_FOLDER:
            uncertain.append(image.lost("", header.reason, header.detail))
        elif not image.is_series:
            notes["films"] += 1
        elif header.reason and (side or header.reason != NOT_ON_DISK):
            uncertain.append(image.lost(side or "", header.reason, header.detail))
        elif not side:
            notes["other_series"] += 1
        elif reason:
            uncertain.append(image.lost(side, reason, detail))
        else:
            of_knees[image.subject, side].append(image)
    found = {}
    for (subject, side), of_knee in of_knees.items():
        found[subject, side], *earlier = sources(of_knee)
        detail = f"{found[subject, side]} was taken later, and counts"
        dropped += [
            Dropped(subject, side, of_knee[0].month, source, "repeated_series", detail)
            for source in earlier
        ]
    known = {(subject, side, of[0].month) for (subject, side), of in of_knees.items()}
    return found, [*dropped, *lose_uncertain(uncertain, known)]

"""Jobs, one per knee, and exclusions of a tree of MR series laid out as OAI's.

`oai_images` describes the layout of series. tables/ holds the readings of every visit (`readings`),
the enrollees and, if replacements are wanted, `outcomes99`.
"""

import collections
import pathlib
from collections.abc import Iterable, Sequence
from typing import NoReturn

from knee_jax.errors import UserError
from knee_jax.ingest import enrolment, progression, readings, volume
from knee_jax.ingest.headers import DEFAULT_LOADER, HeaderLoader
from knee_jax.ingest.inventory import exclude_uncertain
from knee_jax.ingest.oai_images import (
    LAYOUT,
    NOT_ON_DISK,
    SERIES,
    UNREADABLE_FOLDER,
    Image,
    find_images,
    sources,
)
from knee_jax.ingest.report import Exclusion
from knee_jax.targets.grades import MISSING

_UNREAD = (progression.UNKNOWN, MISSING, "unread")


def plan_study(
    root: pathlib.Path,
    cohort: str,
    preparation: volume.Preparation,
    *,
    rule: str = "coded",
    follow_up: str = "subject",
    visits: Sequence[int] = progression.VISITS,
    outcomes: bool = False,
    with_bmi: bool = False,
    check_subject: bool = True,
    loader: HeaderLoader = DEFAULT_LOADER,
) -> tuple[list[volume.VolumeJob], list[Exclusion], dict[str, int]]:
    """Join baseline series, progression and sites into jobs.

    Args:
        root: Root folder of the study.
        cohort: Name of the study.
        preparation: Conversion of volumes to examples.
        rule: Rule of `progression.label_progression`.
        follow_up: Follow-up required by `progression.label_progression`.
        visits: Months of the readings that count; series of the first one are read.
        outcomes: Whether replacements are also read from the table `outcomes99`.
        with_bmi: Whether to exclude knees of subjects with unknown body mass index, as Panfilov et
            al. 2022 did (section 3.1).
        check_subject: Whether to compare subject ids; see `inventory.Rules.check_subject`.
        loader: Loader of headers.

    Returns:
        Jobs in the order of subject and side, each of which reads one knee; the knees without a
        series or a label; and counts of things other than knees.

    Raises:
        UserError: There is no series, a visit has no table, or a table lacks a column.
    """
    baseline = visits[0]
    images, exclusions, notes = find_images(root, loader, [baseline])
    found, unusable = _choose_series(images, check_subject, notes)
    if not found:
        _refuse_none(root, baseline, [*exclusions, *unusable])
    exclusions += unusable
    tables = root / "tables"
    sites = enrolment.read_sites(tables)
    people = enrolment.read_oai(tables).dropna(subset="bmi") if with_bmi else None
    known = None if people is None else set(people["subject"])
    notes["subjects_unknown_to_enrolment"] = len({subject for subject, _ in found} - set(sites))
    read, counts = readings.read_readings(tables, visits)
    notes.update(counts)
    labels, counts_of_labels = progression.label_progression(
        progression.tidy(read),
        replacements=progression.read_replacements(tables) if outcomes else None,
        rule=rule,
        visits=visits,
        follow_up=follow_up,
    )
    rows_apart = ("replacements_after_the_last_visit", "replacements_of_other_knees")
    notes.update({name: counts_of_labels[name] for name in rows_apart})
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
            exclusions.append(Exclusion(subject, side, baseline, source, reason, detail))
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
    # A knee whose series is already excluded is not excluded again.
    known_exclusions = {(knee.subject, knee.side) for knee in exclusions}
    exclusions += [
        Exclusion(subject, side, baseline, "", "no_series", "readings without an MR series")
        for subject, side in sorted(label_of.keys() - known_exclusions)
    ]
    return jobs, exclusions, dict(notes)


def _refuse_none(root: pathlib.Path, baseline: int, exclusions: Sequence[Exclusion]) -> NoReturn:
    """Raise UserError with the reasons why there is no series."""
    reasons = collections.Counter(each.reason for each in exclusions)
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    remedy = f"they should lie as {LAYOUT}"
    if set(reasons) == {"subject_contradicts"}:
        remedy = "if ids in headers were replaced, prepare oai_mri/sagittal_replaced_ids"
    names = " or ".join(SERIES)
    raise UserError(
        f"{root}: no series {names} of month {baseline} can be used (lost: {counts or 'none'}); "
        f"{remedy}"
    )


def _choose_series(
    images: Iterable[Image], check_subject: bool, notes: collections.Counter[str]
) -> tuple[dict[tuple[str, str], str], list[Exclusion]]:
    """Choose the MR series to read among the images of one visit.

    Returns:
        Their folders by (subject, side); and the exclusions: `subject_contradicts`,
        `visit_contradicts`, `not_on_disk`, `unreadable_folder`, `repeated_series`, and the reasons
        of unreadable files, for series without a readable one.
    """
    of_knees: dict[tuple[str, str], list[Image]] = collections.defaultdict(list)
    exclusions: list[Exclusion] = []
    uncertain = []
    notes["films"] = notes["other_series"] = 0
    for image in images:
        header = image.header
        side = SERIES.get(header.description.upper())
        reason, detail = image.contradicts(check_subject)
        if header.reason == UNREADABLE_FOLDER:
            uncertain.append(image.exclude("", header.reason, header.detail))
        elif not image.is_series:
            notes["films"] += 1
        elif header.reason and (side or header.reason != NOT_ON_DISK):
            uncertain.append(image.exclude(side or "", header.reason, header.detail))
        elif not side:
            notes["other_series"] += 1
        elif reason:
            uncertain.append(image.exclude(side, reason, detail))
        else:
            of_knees[image.subject, side].append(image)
    found = {}
    for (subject, side), of_knee in of_knees.items():
        found[subject, side], *earlier = sources(of_knee)
        detail = f"{found[subject, side]} was taken later, and counts"
        exclusions += [
            Exclusion(subject, side, of_knee[0].month, source, "repeated_series", detail)
            for source in earlier
        ]
    known = {(subject, side, of[0].month) for (subject, side), of in of_knees.items()}
    return found, [*exclusions, *exclude_uncertain(uncertain, known)]

"""Ready crops in the published layout of `kneekl224`: {split}/{KL grade}/{subject}{L|R}.png.

Chen P. "Knee Osteoarthritis Severity Grading Dataset", Mendeley Data V1, 2018,
doi:10.17632/56rmx5bjcr.1: OAI baseline, 224x224 pixels, left knees not mirrored, spacing unknown.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Mapping

import numpy as np

from knee_jax.errors import UnusableKnee, UserError
from knee_jax.grades import GRADES, MISSING
from knee_jax.ingest import png, progression
from knee_jax.ingest.account import Dropped, Example, example

SPLITS = ("train", "val", "test")
"""Not `auto_test`, which holds knees of the test part again, cropped by a detector."""

SIZE = 224
LABELS = "progression_labels.csv"
_NAME = re.compile(r"(?P<kl>[0-4])/(?P<subject>\d+)(?P<side>[LR])\.png")


def find_crops(root: pathlib.Path) -> dict[str, list[pathlib.PurePosixPath]]:
    """Lists the files of every split that is present, by sorted path relative to `root`.

    Raises:
        UserError: no split is present, or a split's folder holds no file.
    """
    folders = [split for split in SPLITS if (root / split).is_dir()]
    if not folders:
        raise UserError(
            f"{root}: none of the folders {', '.join(SPLITS)} is here; "
            "give the unpacked download (doi:10.17632/56rmx5bjcr.1) with --manual_dir"
        )
    splits = {split: _files(root, split) for split in folders}
    for split, files in splits.items():
        if not files:
            raise UserError(f"{root / split}: no files in this split; fill or remove the folder")
    return splits


def _files(root: pathlib.Path, split: str) -> list[pathlib.PurePosixPath]:
    found = (path.relative_to(root) for path in (root / split).rglob("*") if path.is_file())
    visible = (path for path in found if not any(part.startswith(".") for part in path.parts))
    return sorted(pathlib.PurePosixPath(path.as_posix()) for path in visible)


def find_progression(
    root: pathlib.Path, splits: Mapping[str, Iterable[pathlib.PurePosixPath]]
) -> tuple[dict[pathlib.PurePosixPath, int], dict[str, int]]:
    """Joins the crops with the published labels of progression (`progression.read_labels`).

    Args:
        root: folder of the crops; the table is there, or beside it.
        splits: of `find_crops`.

    Returns:
        Progression of every crop, -1 where the table does not name it; and counts for the account.

    Raises:
        UserError: no table, one that cannot be used, or one of other knees: its KL differs.
    """
    path = next((p for p in (root / LABELS, root.parent / LABELS) if p.is_file()), None)
    if path is None:
        raise UserError(
            f"{root}: {LABELS} is neither here nor beside this folder; copy it here, or prepare "
            "kneekl224 without progression"
        )
    labels, found = progression.read_labels(path), {}
    unused = set(labels)
    for source in (source for sources in splits.values() for source in sources):
        found[source] = progression.UNKNOWN
        name = _match(source)
        if name is None or (knee := (name["subject"], name["side"])) not in labels:
            continue
        kl, found[source] = labels[knee]
        unused.discard(knee)
        if kl != int(name["kl"]):
            raise UserError(
                f"{path}: KL {kl} of {' '.join(knee)} is not that of {source}; the table must be "
                "of these knees"
            )
    notes = {
        "crops_without_progression": sum(v == progression.UNKNOWN for v in found.values()),
        "labels_without_a_crop": len(unused),
    }
    return found, notes


def _match(source: pathlib.PurePosixPath) -> re.Match[str] | None:
    return _NAME.fullmatch("/".join(source.parts[1:]))


@dataclasses.dataclass(frozen=True)
class CropJob:
    """Reads one crop: a list of the one example, or of the one dropped knee.

    Attributes:
        root: folder of the crops.
        source: path relative to it.
        progression: of `account.example`.
    """

    root: pathlib.Path
    source: pathlib.PurePosixPath
    progression: int | None = None

    def __call__(self) -> list[Example | Dropped]:
        """Reads the file."""
        name = _match(self.source)
        if name is None:
            return self.lost("unknown_name", "the path is not {split}/{0..4}/{subject}{L|R}.png")
        try:
            image = _read_png(self.root / self.source)
        except UnusableKnee as trouble:
            return self.lost(trouble.reason, trouble.detail)
        grades = np.full(len(GRADES), MISSING, np.int8)
        grades[GRADES.index("kl")] = int(name["kl"])
        return [
            example(
                image if name["side"] == "R" else image[:, ::-1],
                grades,
                subject=name["subject"],
                side=name["side"],
                visit=0,
                cohort="OAI",
                source=str(self.source),
                progression=self.progression,
            )
        ]

    def lost(self, reason: str, detail: str) -> list[Example | Dropped]:
        """The knee, where it cannot be had."""
        name = _match(self.source)
        subject, side = (name["subject"], name["side"]) if name else ("", "")
        return [Dropped(subject, side, 0, str(self.source), reason, detail)]

    def paths(self) -> list[pathlib.Path]:
        """All that is read."""
        return [self.root / self.source]


def _read_png(path: pathlib.Path) -> np.ndarray:
    image = png.read_grey(path)
    if image.shape != (SIZE, SIZE) or image.dtype != np.uint8:
        found = f"{image.shape[1]}x{image.shape[0]} {image.dtype}"
        raise UnusableKnee("wrong_size", f"{found} instead of {SIZE}x{SIZE} uint8")
    return image

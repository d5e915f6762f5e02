"""Knees in MR series: folders of DICOM slices, and NIfTI files, wherever they lie.

Every folder that holds files is one series; a NIfTI file is one by itself. Identity in headers is
neither read nor passed on.
"""

import dataclasses
import pathlib

import numpy as np

from knee_jax.errors import UnusableKnee
from knee_jax.ingest import archives, knee_files, sources
from knee_jax.ingest.dicom import NOTES
from knee_jax.ingest.knee_files import Refusal
from knee_jax.ingest.series import read_volume
from knee_jax.ingest.sources import Source
from knee_jax.ingest.volume import Preparation, prepare

_NIFTI = (".nii", ".nii.gz")


@dataclasses.dataclass(frozen=True)
class SeriesKnee:
    """One knee that was read.

    Attributes:
        source: Path of the series, as it was found.
        side: 'L' or 'R'.
        volume: Voxels, uint8 [rows, columns, slices], oriented as a right knee.
        notes: What was strange, in words.
    """

    source: str
    side: str
    volume: np.ndarray
    notes: tuple[str, ...] = ()


def find(paths: list[pathlib.Path]) -> list[Source]:
    """List the series in folders, archives and files, in order.

    Raises:
        FileNotFoundError: A path does not exist.
    """
    found: dict[str, Source] = {}
    for each in sources.find(paths):
        is_one = each.name.lower().endswith(_NIFTI) or each.never_read or each.outside
        folder = each.path.parent
        at_top = "/" not in each.name
        if is_one or (at_top and archives.stem(each.path.name)):
            found.setdefault(each.name, each)
        else:
            name = folder.name if at_top else each.name.rpartition("/")[0]
            found.setdefault(name, Source(folder, name))
    return list(found.values())


@dataclasses.dataclass(frozen=True)
class SeriesJob:
    """Job that reads the knee of one series, or refuses it.

    Attributes:
        source: Series to read.
        preparation: Conversion that the model knows.
        side: 'L' or 'R'; '' to read it from the header.
    """

    source: Source
    preparation: Preparation
    side: str = ""

    def __call__(self) -> list[SeriesKnee | Refusal]:
        """Read the series."""
        source = self.source
        try:
            if source.outside:
                raise UnusableKnee("link_out", knee_files.REFUSALS["link_out"])
            if source.never_read:
                raise UnusableKnee("not_read_from_archive", source.never_read)
            volume = read_volume(source.path, self.side or None)
            voxels = prepare(volume, self.preparation)
        except UnusableKnee as error:
            detail = error.detail
            if error.reason == "no_side":
                detail += "; --side=L or --side=R names it"
            return [Refusal(source.name, self.side, error.reason, detail)]
        except OSError as error:
            return [Refusal(source.name, "", "unreadable", error.strerror or "it cannot be read")]
        notes = tuple(NOTES[name] for name in volume.notes)
        return [SeriesKnee(source.name, volume.side, voxels, notes)]

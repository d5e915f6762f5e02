"""Voxels of an example, from an MR volume: 8 bits, border cut off, shrunk for one view.

After Panfilov et al. 2022, section 3.1, and their code. They shrink crops of 320x320x128 in the
training loop; here the whole volume is shrunk once and cropped afterwards, to half as many voxels
along each axis of a sagittal volume.
"""

import dataclasses
import pathlib

import numpy as np

from knee_jax.errors import UnusableKnee, UserError
from knee_jax.ingest import archives, progression
from knee_jax.ingest.dicom import NOTES
from knee_jax.ingest.report import Example, Exclusion, Note
from knee_jax.ingest.series import Volume, read_volume, slice_files
from knee_jax.targets.grades import GRADES, MISSING

PERCENTILES = (0, 99.9)
"""Percentiles of a volume beyond which intensities are clipped."""

_LARGEST = 2**30

FACTORS = {"sagittal": (2, 2, 2), "coronal": (2, 4, 1), "axial": (4, 2, 1)}
"""Factors by which rows, columns and slices shrink for each view, to give it square pixels.

Panfilov et al. 2022, section 3.1: the same number of voxels in all three.
"""


@dataclasses.dataclass(frozen=True)
class Preparation:
    """Conversion of a volume to an example; the defaults are those for OAI's DESS series.

    Attributes:
        shape: Required rows, columns and slices of the series.
        border: Number of voxels cut off each side of rows and columns.
        view: Key of `FACTORS`.
        intensity: Rule of `quantise`.
    """

    shape: tuple[int, int, int] = (384, 384, 160)
    border: int = 16
    view: str = "sagittal"
    intensity: str = "shift"

    @property
    def result_shape(self) -> tuple[int, int, int]:
        """Rows, columns and slices of the example."""
        rows, columns, slices = self.shape
        by_row, by_column, by_slice = FACTORS[self.view]
        rows, columns = rows - 2 * self.border, columns - 2 * self.border
        return rows // by_row, columns // by_column, slices // by_slice


PHANTOMS = {
    "phantom_mri/tiny": Preparation(shape=(52, 52, 40), border=2),
    "phantom_mri/demo": Preparation(shape=(192, 192, 80), border=8),
    "phantom_mri/full": Preparation(),
}
"""Conversion of the series of each phantom set."""


def preparation_of(data: str) -> Preparation | None:
    """Return how the series of a set are converted; None of sets that hold no such series.

    Args:
        data: Name of the set, such as `oai_mri/sagittal`.
    """
    name, _, config = data.partition("/")
    view = config.partition("_")[0] or "sagittal"
    if name == "oai_mri" and view in FACTORS:
        return Preparation(view=view)
    return PHANTOMS.get(data)


@dataclasses.dataclass(frozen=True)
class VolumeFile:
    """Series of one knee in the study.

    Attributes:
        subject: Subject id in the study.
        side: 'L' or 'R'.
        visit: Months since baseline.
        cohort: Name of the study.
        site: Clinical site, '' where unknown.
        source: Path relative to the study's root: a folder of slices or a NIfTI file.
        progression: Progression label: 0 none, 1 fast, 2 slow (`ingest.progression`), -1 where
            unknown.
        kl: KL grade at that visit, -1 where unknown.
        check_subject: Whether to compare subject ids; see `inventory.Rules.check_subject`.
    """

    subject: str
    side: str
    visit: int
    cohort: str
    site: str
    source: str
    progression: int
    kl: int
    check_subject: bool = True


@dataclasses.dataclass(frozen=True)
class VolumeJob:
    """Job that reads one knee and returns one volume example or one excluded knee, and any notes.

    The example has `volume` uint8 [rows, columns, slices], `progression` int8, `grades` int8 [7] of
    which only KL may be known, `spacing_mm` float32 [3] of that volume, and the identity fields of
    a radiograph example.

    Attributes:
        root: Root folder of the study.
        file: Series.
        preparation: Conversion to an example.
    """

    root: pathlib.Path
    file: VolumeFile
    preparation: Preparation

    def __call__(self) -> list[Example | Exclusion | Note]:
        """Read the series."""
        file = self.file
        try:
            subject = file.subject if file.check_subject else None
            volume = read_volume(self.root / file.source, file.side, subject)
            prepared = prepare(volume, self.preparation)
        except UnusableKnee as error:
            return self.exclude(error.reason, error.detail)
        spacing_mm = np.multiply(volume.spacing_mm, FACTORS[self.preparation.view])
        grades = np.full(len(GRADES), MISSING, np.int8)
        grades[GRADES.index("kl")] = file.kl
        return [
            {
                "volume": prepared,
                progression.COLUMN: np.int8(file.progression),
                "grades": grades,
                "subject": file.subject,
                "side": file.side,
                "visit": file.visit,
                "cohort": file.cohort,
                "site": file.site,
                "spacing_mm": spacing_mm.astype(np.float32),
                "source": file.source,
            },
            *(
                Note(file.subject, file.visit, file.source, name, NOTES[name])
                for name in volume.notes
            ),
        ]

    def exclude(self, reason: str, detail: str) -> list[Example | Exclusion | Note]:
        """Return the knee as excluded."""
        knee = (self.file.subject, self.file.side, self.file.visit, self.file.source)
        return [Exclusion(*knee, reason, detail)]

    def paths(self) -> list[pathlib.Path]:
        """Return all paths that are read: the folder, and the slices in it."""
        path = self.root / self.file.source
        return [path, *(slice_files(path) if archives.is_folder(path) else ())]


def prepare(volume: Volume, preparation: Preparation) -> np.ndarray:
    """Make the voxels of an example: 8 bits, border cut off, shrunk; uint8 of `result_shape`.

    Raises:
        UnusableKnee: wrong_shape, or a reason of `quantise`.
    """
    if volume.voxels.shape != preparation.shape:
        found, wanted = ("x".join(map(str, s)) for s in (volume.voxels.shape, preparation.shape))
        raise UnusableKnee("wrong_shape", f"{found} voxels instead of {wanted}")
    border = preparation.border
    inner = np.s_[border : preparation.shape[0] - border, border : preparation.shape[1] - border]
    grey = quantise(volume.voxels, preparation.intensity)[inner]
    return np.rint(shrink(grey, preparation.view)).astype(np.uint8)


def quantise(voxels: np.ndarray, rule: str = "shift") -> np.ndarray:
    """Reduce intensities to 8 bits.

    'shift' is the method of Panfilov et al. 2022 for OAI, and suits its scanners only: the last
    three bits are removed, and intensities beyond percentiles 0 and 99.9 are clipped. 'scale' maps
    percentiles 0 and 99.9 of the volume to 0 and 255, whatever the scanner's range, and uses all
    256 levels. Networks see the same except for rounding, since every volume is stretched to its
    own minimum and maximum before them.

    Args:
        voxels: Intensities, integer or float, any shape.
        rule: 'shift' or 'scale'.

    Returns:
        Intensities, uint8 of the same shape.

    Raises:
        UserError: There is no such rule.
        UnusableKnee: flat_volume; not_finite; under 'shift' also negative_values, and beyond_8_bits
            if the 99.9 percentile is still above 255.
    """
    if rule not in ("shift", "scale"):
        raise UserError(f"no rule of intensity is called '{rule}': choose shift or scale")
    if not np.isfinite(voxels).all():
        raise UnusableKnee("not_finite", "a voxel is not a number")
    if rule == "scale":
        low, high = _percentiles(voxels)
        scaled = (voxels.astype(np.float32) - low) * (255 / (high - low))
        return np.rint(scaled).clip(0, 255).astype(np.uint8)
    if voxels.min() < 0:
        raise UnusableKnee("negative_values", f"the least is {voxels.min()}: use the rule 'scale'")
    integers = voxels
    if voxels.dtype.kind not in "iu":
        # Larger values would overflow; the limit is far beyond 8 bits.
        integers = np.rint(voxels.clip(max=_LARGEST)).astype(np.int32)
    shifted = integers >> 3
    low, high = _percentiles(shifted)
    if high > 255:
        detail = f"the 99.9 percentile is {high:g} after the shift: use the rule 'scale'"
        raise UnusableKnee("beyond_8_bits", detail)
    return shifted.clip(low, high).astype(np.uint8)


def _percentiles(voxels: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(voxels, PERCENTILES)
    if not low < high:
        raise UnusableKnee("flat_volume", f"percentiles {PERCENTILES} are both {low:g}")
    return float(low), float(high)


def shrink(voxels: np.ndarray, view: str) -> np.ndarray:
    """Shrink a volume like trilinear resampling without smoothing (`align_corners=False`).

    By a factor of 2, samples fall midway between two voxels; by 4, midway between the inner two of
    four. The result is thus a mean of two voxels along each axis that shrinks.

    Args:
        voxels: Intensities, [rows, columns, slices], each a multiple of the view's factor.
        view: Key of `FACTORS`.

    Returns:
        Shrunk intensities, float32 [rows, columns, slices].

    Raises:
        UserError: The shape is not a multiple of the factors.
    """
    shrunk: np.ndarray = voxels.astype(np.float32)
    for axis, factor in enumerate(FACTORS[view]):
        if voxels.shape[axis] % factor:
            raise UserError(
                f"{voxels.shape} voxels do not shrink by {FACTORS[view]} for the {view} view: "
                "choose another shape or border"
            )
        if factor > 1:
            before, after = factor // 2 - 1, factor // 2
            along = np.moveaxis(shrunk, axis, 0)
            shrunk = np.moveaxis((along[before::factor] + along[after::factor]) / 2, 0, axis)
    return np.ascontiguousarray(shrunk)

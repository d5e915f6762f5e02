"""Prepared set on disk: its index, and its knees by row of the index."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from etils import epath

from knee_jax import targets
from knee_jax.data.sampling import PADDING
from knee_jax.errors import UserError
from knee_jax.targets.places import Places

PIXELS = ("image", "volume")

FINGERPRINT = ("checksum", "perceptual_hash")
"""Columns of the index by which a knee is known again under another name."""


@dataclasses.dataclass(frozen=True)
class PreparedSet:
    """Set made by `knee_jax.prepare`.

    Attributes:
        path: Folder of the set (`<data_dir>/<name>[/<config>]/<version>`).
        index: One row per knee and visit, in record order: `split`, `record` (position in the TFDS
            split), identity, `spacing_mm`, `keypoints_valid`, and the label columns: the seven
            grades and, in some sets, others.
        targets: Names of the targets whose labels are loaded with the knees.
    """

    path: epath.Path
    index: pd.DataFrame
    targets: tuple[str, ...] = ()

    @functools.cached_property
    def _builder(self) -> tfds.core.DatasetBuilder:
        return tfds.builder_from_directory(self.path)

    @functools.cached_property
    def _records(self) -> dict[str, Any]:
        splits = self.index["split"].unique()
        return {split: self._builder.as_data_source(split) for split in splits}

    @functools.cached_property
    def pixels(self) -> str:
        """Name of the array of pixels: 'image' or 'volume'."""
        return next(name for name in PIXELS if name in self._builder.info.features)

    @functools.cached_property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of every image (height, width) or volume (rows, columns, slices)."""
        return self._builder.info.features[self.pixels].shape

    @property
    def name(self) -> str:
        """Name of the set, with its config after a slash if it has any."""
        return str(self._builder.info.full_name).rpartition("/")[0]

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Spacing of rows, columns and slices of the first volume, mm; films have one number.

        NaN if unknown.
        """
        first = str(self.index["spacing_mm"].iloc[0])
        return tuple(float(number or "nan") for number in first.split(" x "))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the set: knees, labels, records and checksums of the pixels."""
        content = (self.path / "index.csv").read_bytes()
        return hashlib.sha256(content).hexdigest()[:16]

    @property
    def bytes_per_knee(self) -> int:
        """Memory that a knee takes on a device, bytes, nearly all of it pixels."""
        return int(np.prod(self.image_shape)) + 1024

    def load(self, rows: np.ndarray) -> dict[str, Any]:
        """Read knees: their labels from the index, everything else from the records.

        Args:
            rows: Rows of the index, int64 [n].

        Returns:
            `labels`, an array [n] for each target; for films also image uint8 [n, height, width],
            keypoints float32 [n, 74, 2] and keypoints_valid bool [n]; for MR series volume uint8
            [n, rows, columns, slices].
        """
        where = self.index.iloc[rows]
        knees = [
            self._records[split][record] for split, record in zip(where["split"], where["record"])
        ]
        arrays = {
            name: np.stack([np.asarray(knee[name]) for knee in knees])
            for name in ("volume", "image", "keypoints", "keypoints_valid")
            if name in self._builder.info.features
        }
        return arrays | {"labels": {t.name: t.labels(where) for t in targets.get_all(self.targets)}}

    def hide_labels(self, rows: np.ndarray) -> "PreparedSet":
        """Return the same set with all labels missing in `rows`, as if those knees were unread."""
        index = self.index.copy()
        for column, missing in _label_columns(index).items():
            index.loc[index.index[rows], column] = missing
        return dataclasses.replace(self, index=index)

    def find(self, table: pd.DataFrame) -> np.ndarray:
        """Return the rows of the knees that a table names by subject, side and visit, int64 [n]."""
        identity = ["subject", "side", "visit"]
        known = pd.MultiIndex.from_frame(self.index[identity].astype(str))
        rows = known.get_indexer(pd.MultiIndex.from_frame(table[identity].astype(str)))
        if (rows < 0).any():
            raise KeyError(f"{(rows < 0).sum()} knees are not in {self.path}")
        return rows

    def partially_labelled(self, rows: np.ndarray) -> np.ndarray:
        """Return which of `rows` were read for some of the targets but not for all, bool [n]."""
        knees = self.index.iloc[rows]
        read = np.stack([target.is_read(knees) for target in targets.get_all(self.targets)])
        return np.asarray(read.any(axis=0) & ~read.all(axis=0))

    def load_batch(self, rows: np.ndarray) -> dict[str, Any]:
        """Load rows [..., batch] that may include `PADDING`; add `row` int32 and `mask` bool."""
        mask = rows != PADDING
        knees = self.load(np.where(mask, rows, 0).ravel())

        def shaped(arrays: dict[str, Any]) -> dict[str, Any]:
            return {
                name: shaped(array)
                if isinstance(array, dict)
                else array.reshape(*rows.shape, *array.shape[1:])
                for name, array in arrays.items()
            }

        return shaped(knees) | {"row": rows.astype(np.int32), "mask": mask}


def open_set(path: epath.PathLike, names: Sequence[str] = ()) -> PreparedSet:
    """Open the prepared set in folder `path`; its index includes what is known of the subjects.

    Args:
        path: Folder of the set.
        names: Targets whose labels are loaded with the knees.

    Raises:
        UserError: `path` does not hold a complete prepared set.
    """
    file = epath.Path(path) / "index.csv"
    if not file.exists():
        raise UserError(
            f"{path} holds no prepared set (index.csv is missing): "
            "run `python -m knee_jax.prepare --dataset=NAME`"
        )
    text = ("split", "subject", "side", "cohort", "site", "source", *FINGERPRINT)
    index = pd.read_csv(
        file, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values={"spacing_mm": [""]}
    )
    people = file.parent / "subjects.csv"
    if people.exists():
        numbers = {"age": [""], "bmi": [""]}
        described = pd.read_csv(
            people, dtype={"subject": str, "sex": str}, keep_default_na=False, na_values=numbers
        )
        index = index.merge(described[["subject", "sex", *numbers]], how="left", on="subject")
    missing = _label_columns(index)
    for column in missing:
        index[column] = pd.to_numeric(index[column], errors="coerce")
    types = {t.source: t.dtype for t in targets.all_targets().values() if t.source in missing}
    return PreparedSet(file.parent, index.astype(types), tuple(names))


def find_prepared(folder: epath.PathLike, fingerprints: set[str]) -> PreparedSet | None:
    """Open the version of a prepared set that has a known fingerprint; None if none is there.

    Args:
        folder: Folder of the set's versions.
        fingerprints: Fingerprints, any of which will do.
    """
    opened = (open_set(file.parent) for file in sorted(epath.Path(folder).glob("*/index.csv")))
    return next((each for each in opened if each.fingerprint in fingerprints), None)


def _label_columns(index: pd.DataFrame) -> dict[str, Any]:
    """Return the label columns of an index, each with its missing value."""
    # Places come with the batch: their column says of every knee whether it has any.
    known = (t for t in targets.all_targets().values() if not isinstance(t, Places))
    return {target.source: target.missing for target in known if target.source in index}

"""A prepared set on disk: its index, and knees by row of the index."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from etils import epath

from knee_jax.data.sampling import PADDING
from knee_jax.errors import UserError
from knee_jax.grades import GRADES, MISSING, OWN, labels

PIXELS = ("image", "volume")


@dataclasses.dataclass(frozen=True)
class PreparedSet:
    """A set made by `knee_jax.prepare`.

    Attributes:
        path: the folder of the set (`<data_dir>/<name>[/<config>]/<version>`).
        index: one row a knee and visit, in record order: `split`, `record` (position in the TFDS
            split), identity, `spacing_mm`, `keypoints_valid`, the seven grades and, in some sets,
            `progression`.
    """

    path: epath.Path
    index: pd.DataFrame

    @functools.cached_property
    def _builder(self) -> tfds.core.DatasetBuilder:
        return tfds.builder_from_directory(self.path)

    @functools.cached_property
    def _records(self) -> dict[str, Any]:
        splits = self.index["split"].unique()
        return {split: self._builder.as_data_source(split) for split in splits}

    @functools.cached_property
    def pixels(self) -> str:
        """Which array the pixels of a knee are: 'image' or 'volume'."""
        return next(name for name in PIXELS if name in self._builder.info.features)

    @functools.cached_property
    def image_shape(self) -> tuple[int, ...]:
        """Height and width of every image, pixels; or rows, columns and slices of every volume."""
        return self._builder.info.features[self.pixels].shape

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Of rows, columns and slices of the first volume; of a film one, NaN if unknown."""
        first = str(self.index["spacing_mm"].iloc[0])
        return tuple(float(number or "nan") for number in first.split(" x "))

    @property
    def bytes_per_knee(self) -> int:
        """Memory that a knee takes on a device, nearly all of it pixels."""
        return int(np.prod(self.image_shape)) + 1024

    def load(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Reads knees: their grades from the index, the rest from the records.

        Args:
            rows: int64 [n], rows of the index.

        Returns:
            grades int8 [n, 7], progression int8 [n], which is missing everywhere in a set without
            it; and of films image uint8 [n, height, width], keypoints float32 [n, 74, 2] and
            keypoints_valid bool [n], of MR series volume uint8 [n, rows, columns, slices].
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
        return arrays | {
            "grades": where[list(GRADES)].to_numpy(np.int8),
            "progression": labels(where, "progression"),
        }

    def hide_grades(self, rows: np.ndarray) -> "PreparedSet":
        """The same set with all labels missing in `rows`, as if nobody had read those knees."""
        index = self.index.copy()
        index.loc[index.index[rows], [name for name in (*GRADES, *OWN) if name in index]] = MISSING
        return dataclasses.replace(self, index=index)

    def find(self, table: pd.DataFrame) -> np.ndarray:
        """The rows of the knees that a table speaks of by subject, side and visit, int64 [n]."""
        identity = ["subject", "side", "visit"]
        known = pd.MultiIndex.from_frame(self.index[identity].astype(str))
        rows = known.get_indexer(pd.MultiIndex.from_frame(table[identity].astype(str)))
        if (rows < 0).any():
            raise KeyError(f"{(rows < 0).sum()} knees are not in {self.path}")
        return rows

    def partially_labelled(self, rows: np.ndarray, grades: Sequence[str] = GRADES) -> np.ndarray:
        """Which of `rows` have some of the grades, but not all; bool [n]."""
        known = self.index.iloc[rows][list(grades)].to_numpy() != MISSING
        return known.any(axis=1) & ~known.all(axis=1)

    def load_batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """As `load`, for rows [..., batch] that may be `PADDING`; adds `row` int32, `mask` bool."""
        mask = rows != PADDING
        knees = self.load(np.where(mask, rows, 0).ravel())
        shaped = {
            name: array.reshape(*rows.shape, *array.shape[1:]) for name, array in knees.items()
        }
        return shaped | {"row": rows.astype(np.int32), "mask": mask}


def open_set(path: epath.PathLike) -> PreparedSet:
    """Opens the prepared set in folder `path`; its index tells of the subjects what is known.

    Raises:
        UserError: `path` holds no whole prepared set.
    """
    file = epath.Path(path) / "index.csv"
    if not file.exists():
        raise UserError(
            f"{path} holds no prepared set (index.csv is missing): "
            "run `python -m knee_jax.prepare --dataset=NAME`"
        )
    identity = dict.fromkeys(("split", "subject", "side", "cohort", "site", "source"), str)
    index = pd.read_csv(file, dtype=identity, keep_default_na=False, na_values={"spacing_mm": [""]})
    people = file.parent / "subjects.csv"
    if people.exists():
        numbers = {"age": [""], "bmi": [""]}
        described = pd.read_csv(
            people, dtype={"subject": str, "sex": str}, keep_default_na=False, na_values=numbers
        )
        index = index.merge(described[["subject", "sex", *numbers]], how="left", on="subject")
    whole = {name: np.int8 for name in (*GRADES, *OWN) if name in index}
    return PreparedSet(file.parent, index.astype(whole))

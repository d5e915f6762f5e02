"""Picture of some prepared knees, to check at a glance that all look like right knees."""

import collections
import hashlib
import pathlib
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from knee_jax.ingest.report import Example
from knee_jax.pictures import draw_landmarks
from knee_jax.targets.grades import GRADES, MISSING

FILE = "contact_sheet.png"
NUM_KNEES = 48

_COLUMNS, _TILE, _CAPTION, _GAP = 8, 200, 34, 4
_WHITE = (255, 255, 255)
_FILMS = (
    "All should look like right knees: the femur above, the fibula and the lateral landmarks "
    "(orange dots; the medial ones are blue crosses) at the left."
)
_VOLUMES = (
    "All should look like right knees: the femur above; the patella at the left of the sagittal "
    "slice, lateral at the left of the coronal one."
)


def choose(rows: Sequence[dict], number: int = NUM_KNEES) -> list[dict]:
    """Choose knees from across a set: one of each subject, then a second of each, and so on.

    Subjects, and the knees of each, are ordered by a hash, so that the choice is scattered and
    hardly changes when knees are added.

    Args:
        rows: Rows of `IngestReport.kept`, of all splits.
        number: Number of knees.

    Returns:
        Rows of right knees, then of left ones.
    """
    rank: collections.Counter[str] = collections.Counter()
    ranked = []
    for row in sorted(rows, key=lambda row: _hash(row["subject"], row["side"], row["visit"])):
        ranked.append((rank[row["subject"]], _hash(row["subject"]), row))
        rank[row["subject"]] += 1
    chosen = [row for *_, row in sorted(ranked, key=lambda each: each[:2])[:number]]
    return sorted(chosen, key=lambda row: row["side"], reverse=True)


def _hash(*parts: str | int) -> bytes:
    return hashlib.sha256("/".join(map(str, parts)).encode()).digest()


def write(path: pathlib.Path, knees: Iterable[Example], label_columns: Sequence[str] = ()) -> None:
    """Draw knees with their landmarks, subject, side, visit and labels.

    Args:
        path: Path of the PNG.
        knees: Radiograph or volume examples, at least one; for a volume the middle sagittal slice
            is drawn, with the middle coronal one beside it.
        label_columns: Names of their further labels.
    """
    tiles, words = [], ""
    for knee in knees:
        tiles.append(_tile(knee, label_columns))
        words = _FILMS if "image" in knee else _VOLUMES
    blank = np.zeros_like(tiles[0])
    tiles += [blank] * (-len(tiles) % _COLUMNS)
    rows = [np.hstack(tiles[start : start + _COLUMNS]) for start in range(0, len(tiles), _COLUMNS)]
    title = np.zeros((_CAPTION, rows[0].shape[1], 3), np.uint8)
    _write_line(title, words, 22, 0.6)
    done, data = cv2.imencode(".png", np.vstack([title, *rows])[..., ::-1])
    if not done:
        raise OSError(f"{path}: OpenCV cannot write PNG files")
    path.write_bytes(data.tobytes())


def _tile(knee: Example, label_columns: Sequence[str]) -> np.ndarray:
    """Draw picture and caption of one knee, uint8 [height, width, 3]."""
    picture = knee["image"] if "image" in knee else _middle(knee["volume"])
    height, width = picture.shape[:2]
    scale = _TILE / max(height, width)
    size = (round(width * scale), round(height * scale))
    shrunk = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    tile = np.zeros((_TILE + _CAPTION + _GAP, _TILE + _GAP, 3), np.uint8)
    left, top = (_TILE - size[0]) // 2, (_TILE - size[1]) // 2
    inner = np.repeat(shrunk[..., None], 3, axis=-1)
    draw_landmarks(inner, scale * knee.get("keypoints", np.empty((0, 2))))
    tile[top : top + size[1], left : left + size[0]] = inner
    caption = tile[_TILE : _TILE + _CAPTION, :_TILE]
    _write_line(caption, f"{knee['subject']} {knee['side']} {knee['visit']}m", 12, 0.42)
    _write_line(caption, _labels(knee, label_columns), 28, 0.36)
    return tile


def _middle(volume: np.ndarray) -> np.ndarray:
    """Return the middle sagittal and coronal slices of a volume, side by side and brightened."""
    _, columns, slices = volume.shape
    both = np.hstack([volume[:, :, slices // 2], volume[:, columns // 2, :]])
    white = max(float(np.percentile(both, 99)), 1.0)
    return np.rint((both * (255 / white)).clip(0, 255)).astype(np.uint8)


def _labels(knee: Example, label_columns: Sequence[str]) -> str:
    """Write the grades ('-' where missing) and the known further labels in one short line."""
    grades = dict(zip(GRADES, ("-" if g == MISSING else str(g) for g in knee["grades"])))
    line = f"KL {grades.pop('kl')}"
    if set(grades.values()) != {"-"}:
        line += "  " + " ".join(f"{name}{grade}" for name, grade in grades.items())
    known = [name for name in label_columns if knee[name] >= 0]
    return "  ".join([line, *(f"{name} {knee[name]:.3g}" for name in known)])


def _write_line(picture: np.ndarray, text: str, baseline: int, scale: float) -> None:
    # OpenCV cannot draw on a view of a larger array.
    own = np.ascontiguousarray(picture)
    cv2.putText(own, text, (2, baseline), cv2.FONT_HERSHEY_SIMPLEX, scale, _WHITE)
    picture[:] = own

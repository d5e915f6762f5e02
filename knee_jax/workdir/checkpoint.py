"""Checkpoints of a run; the only module that uses Orbax.

Kept are the latest, from which a run resumes, the one before it, and the one with the best
validation score. A save is written beside its final name and renamed when complete, so that a run
that is killed while saving resumes from the checkpoint before. Each lists the hashes of its files:
one whose files are not those that were written is set aside, and the next best is taken.
"""

import contextlib
import functools
import json
import logging as standard_logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import Mesh
from orbax.checkpoint import checkpoint_managers

from knee_jax.data import mesh as meshes
from knee_jax.errors import UserError, is_full_disk
from knee_jax.files import hash_of_file, sync, write_json
from knee_jax.workdir import manifest

Tree = TypeVar("Tree")

NOT_VALIDATED = float("-inf")

HASHES = "hashes.json"
"""File in a checkpoint's folder: its step, and the hash of each of its other files."""

SET_ASIDE = "set_aside"
"""Folder beside the checkpoints, for those that are damaged."""

_log = standard_logging.getLogger(__name__)


class Checkpoints:
    """Checkpoints in folder `path`.

    Args:
        path: Folder of the checkpoints.
        read_only: Whether nothing will be saved. Damaged checkpoints are then passed over where
            they lie.
        latest: Number of latest checkpoints to keep, in addition to the best.
    """

    def __init__(self, path: Path, *, read_only: bool = False, latest: int = 2):
        self._path = path.absolute()
        self._manager: ocp.CheckpointManager | None = None
        self._read_only = read_only
        self._saving = 0
        self._sound: dict[int, bool] = {}
        if read_only:
            return
        self._set_damaged_aside()
        _hide_failed_writes()
        logging.get_absl_logger().addFilter(_is_told_elsewhere)
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(latest),
                checkpoint_managers.BestN(get_metric_fn=_score, n=1),
            ]
        )
        with _without_warnings():
            options = ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                best_fn=_score,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._list_hashes),
            )
            self._manager = ocp.CheckpointManager(
                self._path, options=options, item_handlers=ocp.StandardCheckpointHandler()
            )

    def save(self, step: int, state: Any, score: float | None = None) -> None:
        """Start to save; training may continue while it is written.

        Args:
            step: Number of training steps done.
            state: Pytree of device arrays.
            score: Validation score, higher is better; None if not validated at this step.

        Raises:
            UserError: The disk has no room for it. This is checked beforehand, because Orbax and
                TensorStore print pages when they find out.
        """
        manager = self._writer
        self._wait()
        self._require_space(state)
        metrics = {"score": NOT_VALIDATED if score is None else score}
        self._saving = step
        self._sound.pop(step, None)
        manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)

    @property
    def _writer(self) -> ocp.CheckpointManager:
        if self._manager is None:
            raise RuntimeError("these checkpoints were opened to be read only")
        return self._manager

    def _require_space(self, state: Any) -> None:
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._path).free
        if free < 1.1 * needed:
            raise UserError(
                f"{self._path}: the disk is full; a checkpoint needs {needed / 1e6:.1f} MB and "
                f"{free / 1e6:.1f} MB are free: make room, and the same command goes on"
            )

    def _list_hashes(self) -> None:
        """List the hashes of a checkpoint that is complete, before it takes its name."""
        if jax.process_index() == 0:
            (unfinished,) = self._path.glob(f"{self._saving}.*tmp*")
            _write_hashes(unfinished, self._saving)

    def _set_damaged_aside(self) -> None:
        """Move away the checkpoints that cannot be believed; every process takes part."""
        damaged = [step for step in self._folders() if not self._is_sound(step)]
        if not damaged:
            return
        meshes.wait_for_all("damaged checkpoints were found")
        if jax.process_index() == 0:
            for step in damaged:
                place = self._path.parent / SET_ASIDE / str(step)
                while place.exists():
                    place = place.with_name(f"{place.name}_again")
                place.parent.mkdir(exist_ok=True)
                (self._path / str(step)).rename(place)
                _log.warning("checkpoint %d is set aside, in %s", step, place)
        meshes.wait_for_all("damaged checkpoints were set aside")

    def _folders(self) -> list[int]:
        """Return the steps of all checkpoints that have their final name."""
        if not self._path.is_dir():
            return []
        names = (path.name for path in self._path.iterdir() if path.is_dir())
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def _is_sound(self, step: int) -> bool:
        if step not in self._sound:
            folder = self._path / str(step)
            known = (self._path.parent / manifest.FILE).exists()
            fault = _fault(folder, step)
            if fault == _UNLISTED and not known:
                # A run of a version that kept no hashes; from now on it does.
                fault = "" if self._can_be_read(step) else "cannot be read"
                if not fault and not self._read_only and jax.process_index() == 0:
                    _write_hashes(folder, step)
            if fault:
                _log.warning("checkpoint %d in %s is not used: %s", step, self._path, fault)
            self._sound[step] = not fault
        return self._sound[step]

    def _can_be_read(self, step: int) -> bool:
        try:
            _read_score(self._path / str(step))
            self._read(step)
        except Exception:
            return False
        return True

    def latest_step(self) -> int | None:
        """Return the step of the latest sound checkpoint, or None."""
        self._wait()
        return next(filter(self._is_sound, reversed(self._folders())), None)

    def steps(self) -> set[int]:
        """Return the steps of all sound checkpoints."""
        self._wait()
        return set(filter(self._is_sound, self._folders()))

    def delete_after(self, step: int) -> None:
        """Delete the checkpoints of later steps, which will be repeated."""
        for later in self._writer.all_steps():
            if later > step:
                self._writer.delete(later)
                self._sound.pop(later, None)

    def best_step(self) -> int | None:
        """Return the step of the best validated checkpoint (the later of equals), or None."""
        scores = self._scores()
        return max(scores, key=lambda step: (scores[step], step), default=None)

    def best_score(self) -> float:
        """Return the score of the best validated checkpoint, or minus infinity if there is none."""
        return max(self._scores().values(), default=NOT_VALIDATED)

    def _scores(self) -> dict[int, float]:
        scores = {step: _read_score(self._path / str(step)) for step in self.steps()}
        return {step: score for step, score in scores.items() if score != NOT_VALIDATED}

    def restore(self, step: int, like: Tree, mesh: Mesh) -> Tree:
        """Read a checkpoint, onto any mesh.

        Args:
            step: Step of the checkpoint.
            like: Pytree of arrays or `jax.ShapeDtypeStruct` of the same structure.
            mesh: Mesh that the leaves are placed on (`data.mesh.of_state`).

        Raises:
            UserError: The checkpoint holds another model's state.
        """
        saved = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(self._read(step))}
        wanted = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(like)}
        for name in sorted(saved.keys() | wanted.keys()):
            there, here = (
                tuple(tree[name].shape) if name in tree else "absent" for tree in (saved, wanted)
            )
            if there != here:
                raise UserError(
                    f"the checkpoint in {self._path} is of another model: {name} is {there} there "
                    f"and {here} in this config; choose another --workdir or the config it was "
                    "trained with"
                )
        leaves = [saved[name].astype(leaf.dtype) for name, leaf in wanted.items()]
        tree = jax.tree.unflatten(jax.tree.structure(like), leaves)
        return meshes.place(tree, meshes.of_state(mesh, tree))

    def restore_variables(self, step: int) -> dict[str, Any]:
        """Read the variables to predict with, whatever else the checkpoint holds, as NumPy arrays.

        They are the moving averages where the run kept them.
        """
        state = self._read(step)
        kept = state.get("average") or state
        return {name: kept[name] for name in ("params", "batch_stats")}

    def _read(self, step: int) -> Any:
        """Read a checkpoint as NumPy arrays, in dicts and lists."""
        folder = self._path / str(step) / "default"
        with _without_warnings(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            structure = checkpointer.metadata(folder).item_metadata.tree
            as_arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), structure)
            return checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_arrays))

    def _wait(self) -> None:
        """Wait until pending saves are written.

        Raises:
            UserError: The disk was full.
        """
        if self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            if not is_full_disk(error):
                raise
            raise UserError(
                f"{self._path}: the disk is full; the checkpoint of step {self._saving} could not "
                "be written: make room, and the same command goes on from the one before"
            ) from error

    def close(self) -> None:
        """Wait until pending saves are written, and close."""
        if self._manager is None:
            return
        try:
            self._wait()
        finally:
            self._manager.close()
            self._manager = None
            logging.get_absl_logger().removeFilter(_is_told_elsewhere)
            sync(self._path)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_UNLISTED = f"{HASHES} is missing"


def _write_hashes(folder: Path, step: int) -> None:
    """List the hashes of a checkpoint's files, which are on the disk afterwards."""
    # The files of the folder itself, which nothing reads, are written again afterwards.
    files = sorted(path for path in folder.glob("*/**/*") if path.is_file())
    for path in (*files, *(path for path in folder.rglob("*") if path.is_dir())):
        sync(path)
    hashes = {path.relative_to(folder).as_posix(): hash_of_file(path) for path in files}
    write_json(folder / HASHES, {"step": step, "files": hashes})


def _fault(folder: Path, step: int) -> str:
    """Return what is wrong with a checkpoint, or ''."""
    if not (folder / HASHES).is_file():
        return _UNLISTED
    try:
        listed = json.loads((folder / HASHES).read_bytes())
        if listed["step"] != step:
            return f"it is that of step {listed['step']}"
        for name, expected in listed["files"].items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if hash_of_file(folder / name) != expected:
                return f"{name} is not as it was written"
    except PermissionError:
        raise
    except OSError as error:
        return f"it cannot be read ({(error.strerror or 'no reason given').lower()})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{HASHES} is not as it was written"
    needed = ("metrics/metrics", "default/_METADATA")
    return next((f"{HASHES} lacks {name}" for name in needed if name not in listed["files"]), "")


def _read_score(folder: Path) -> float:
    return float(json.loads((folder / "metrics" / "metrics").read_bytes())["score"])


def _is_told_elsewhere(record: standard_logging.LogRecord) -> bool:
    """Keep Orbax' threads from logging pages about an error that `Checkpoints` raises."""
    return "orbax" not in record.pathname


@functools.cache
def _hide_failed_writes() -> None:
    """Hide the pages on each write of Orbax that fails; `Checkpoints` has one line for all.

    asyncio logs them when they are collected, and TensorStore's threads raise where their loop is
    closed by then.
    """
    standard_logging.getLogger("asyncio").addFilter(
        lambda record: "exception was never retrieved" not in record.getMessage()
    )
    hook = sys.unraisablehook

    def of_others(lost: "sys.UnraisableHookArgs") -> None:
        if str(lost.exc_value) != "Event loop is closed":
            hook(lost)

    sys.unraisablehook = of_others


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence Orbax, which warns about what it was instructed to do: only to read."""
    logger = logging.get_absl_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)


def _score(metrics: Any) -> float:
    return metrics["score"]


def _name(path: Any) -> str:
    keys = [getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))) for k in path]
    return "/".join(map(str, keys))

"""Checkpoints of a run; the only module that uses Orbax.

Two are kept: the latest, from which a run resumes, and the one with the best validation score. A
save is written beside its final name and renamed when complete, so that a run that is killed while
saving resumes from the checkpoint before.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import Mesh
from orbax.checkpoint import checkpoint_managers

from knee_jax.data import mesh as meshes
from knee_jax.errors import UserError

Tree = TypeVar("Tree")

NOT_VALIDATED = float("-inf")


class Checkpoints:
    """Checkpoints in folder `path`.

    Args:
        path: Folder of the checkpoints.
        read_only: Whether nothing will be saved.
        latest: Number of latest checkpoints to keep, in addition to the best.
    """

    def __init__(self, path: Path, *, read_only: bool = False, latest: int = 1):
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(latest),
                checkpoint_managers.BestN(get_metric_fn=_score, n=1),
            ]
        )
        self._path = path
        with _without_warnings():
            options = ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                best_fn=_score,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            )
            self._manager = ocp.CheckpointManager(
                path.absolute(), options=options, item_handlers=ocp.StandardCheckpointHandler()
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
        self._manager.wait_until_finished()
        self._require_space(state)
        metrics = {"score": NOT_VALIDATED if score is None else score}
        self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)

    def _require_space(self, state: Any) -> None:
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._path).free
        if free < 1.1 * needed:
            raise UserError(
                f"{self._path}: the disk is full; a checkpoint needs {needed / 1e6:.1f} MB and "
                f"{free / 1e6:.1f} MB are free: make room, and the same command goes on"
            )

    def latest_step(self) -> int | None:
        """Return the step of the latest complete checkpoint, or None."""
        return self._manager.latest_step()

    def steps(self) -> set[int]:
        """Return the steps of all complete checkpoints."""
        return set(self._manager.all_steps())

    def delete_after(self, step: int) -> None:
        """Delete the checkpoints of later steps, which will be repeated."""
        for later in self.steps():
            if later > step:
                self._manager.delete(later)

    def best_step(self) -> int | None:
        """Return the step of the best validated checkpoint (the later of equals), or None."""
        scores = self._scores()
        return max(scores, key=lambda step: (scores[step], step), default=None)

    def best_score(self) -> float:
        """Return the score of the best validated checkpoint, or minus infinity if there is none."""
        return max(self._scores().values(), default=NOT_VALIDATED)

    def _scores(self) -> dict[int, float]:
        return {
            step: metrics["score"]
            for step in self._manager.all_steps()
            if (metrics := self._manager.metrics(step))["score"] != NOT_VALIDATED
        }

    def restore(self, step: int, like: Tree, mesh: Mesh) -> Tree:
        """Read a checkpoint, onto any mesh.

        Args:
            step: Step of the checkpoint.
            like: Pytree of arrays or `jax.ShapeDtypeStruct` of the same structure.
            mesh: Mesh that the leaves are replicated on.

        Raises:
            UserError: The checkpoint holds another model's state.
        """
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=meshes.replicated(mesh)
            ),
            like,
        )
        self._check_structure(step, target)
        return self._manager.restore(step, args=ocp.args.StandardRestore(target))

    def restore_variables(self, step: int) -> dict[str, Any]:
        """Read the variables to predict with, whatever else the checkpoint holds, as NumPy arrays.

        They are the moving averages where the run kept them.
        """
        saved = self.structure(step)
        state = self.restore(step, saved, meshes.make_mesh())
        kept = state.get("average") or state
        return {name: jax.device_get(kept[name]) for name in ("params", "batch_stats")}

    def _check_structure(self, step: int, target: Any) -> None:
        saved = {
            _name(path): tuple(leaf.shape)
            for path, leaf in jax.tree.leaves_with_path(self.structure(step))
        }
        wanted = {
            _name(path): tuple(leaf.shape) for path, leaf in jax.tree.leaves_with_path(target)
        }
        for name in sorted(saved.keys() | wanted.keys()):
            if saved.get(name) != wanted.get(name):
                raise UserError(
                    f"the checkpoint in {self._path} is of another model: {name} is "
                    f"{saved.get(name, 'absent')} there and {wanted.get(name, 'absent')} in this "
                    "config; choose another --workdir or the config it was trained with"
                )

    def structure(self, step: int) -> Any:
        """Return the content of a checkpoint as a pytree of shapes and types."""
        return self._manager.item_metadata(step).tree

    def close(self) -> None:
        """Wait until pending saves are written, and close."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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

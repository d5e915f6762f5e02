"""Continuation of a run in a folder of its own: through more epochs, or in other batches.

`config.continue_from` names the folder of the run before, which stays as it is. The state at its
last step is where the new one begins: the parameters, their moments and averages, and the place
among the knees. All that a continuation may change is in `CHANGEABLE`; the rest must be the same.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import pandas as pd

from knee_jax.cohort import knees
from knee_jax.config import load
from knee_jax.config.load import RunConfig
from knee_jax.errors import UserError
from knee_jax.training.state import TrainState
from knee_jax.workdir import folder
from knee_jax.workdir.checkpoint import Checkpoints
from knee_jax.workdir.manifest import has_checkpoints

if TYPE_CHECKING:
    from knee_jax.training.run import Run

CHANGEABLE = (
    "continue_from",
    "epochs",
    "batch_size",
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "optimizer.schedule",
    "optimizer.drop_epochs",
    "optimizer.drop_factor",
)


def changes(config: RunConfig, workdir: Path) -> tuple[str, ...]:
    """Return what a continuation changes, as a note for readers; nothing if it is none.

    Args:
        config: Config of the continuation.
        workdir: Its folder; once it has checkpoints, the run before may be gone.

    Raises:
        UserError: There is no such run, or it differs in what a continuation cannot change.
    """
    if not config.continue_from:
        return ()
    before = _before(config)
    if has_checkpoints(workdir) and not (before / folder.CONFIG).exists():
        return (f"The run went on from {before}, which is not there any more.",)
    folder.require(before)
    was, now = (folder.fixed(each) for each in (load.saved(before / folder.CONFIG), config))
    differing = [name for name in sorted(was.keys() | now.keys()) if was.get(name) != now.get(name)]
    if refused := [name for name in differing if name not in CHANGEABLE]:
        raise UserError(
            f"config.continue_from = {config.continue_from!r}: that run differs in "
            f"{', '.join(refused)}, and a continuation may change only {', '.join(CHANGEABLE)}"
        )
    told = [
        f"{name} {was.get(name)} → {now.get(name)}" for name in differing if name != CHANGEABLE[0]
    ]
    return (f"The run goes on from {before}: {', '.join(told) or 'nothing changes'}.",)


def first_state(run: "Run") -> TrainState:
    """Return the state at the last step of the run before, in the steps of this one.

    Raises:
        UserError: It has no checkpoint, was of other knees, or left nothing to do.
    """
    before, config = _before(run.config), run.config
    with Checkpoints(before / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.latest_step()
        if step is None:
            raise UserError(f"config.continue_from = {config.continue_from!r}: no sound checkpoint")
        state = checkpoints.restore(step, jax.eval_shape(run.random_state), run.mesh)
    if not _parts(knees.read(before / knees.FILE)).equals(_parts(run.knees)):
        raise UserError(
            f"config.continue_from = {config.continue_from!r}: that run was of other knees; "
            "prepare the set as it was, or begin with its weights (config.init_from)"
        )
    batch_size = load.saved(before / folder.CONFIG).batch_size
    state = in_batches_of(state, batch_size, config.batch_size)
    begun = int(state.step)
    if begun >= config.epochs * run.steps_per_epoch:
        raise UserError(
            f"config.continue_from = {config.continue_from!r}: that run has done "
            f"{begun / run.steps_per_epoch:.3g} epochs, and config.epochs is {config.epochs}: "
            "raise it"
        )
    if jax.process_index() == 0:
        print(
            f"going on at step {begun}, which was step {step} of batches of {batch_size}"
            if batch_size != config.batch_size
            else f"going on at step {begun}"
        )
        if left_out := begun * config.batch_size - step * batch_size:
            print(f"{left_out} knees of this epoch are left out, which make no whole batch")
    return state


def in_batches_of(state: TrainState, before: int, now: int) -> TrainState:
    """Return a state whose steps, of `before` knees each, are counted in batches of `now`.

    The step is the first at which all knees so far have been seen; an epoch goes on where it was.
    The optimiser's counts, by which rates and corrections of bias go, change in the same ratio.
    """
    if before == now:
        return state

    def counted(path: Any, leaf: jax.Array) -> jax.Array:
        name = getattr(path[-1], "name", "")
        if leaf.ndim or not jax.numpy.issubdtype(leaf.dtype, jax.numpy.integer):
            return leaf
        return leaf if name == "mini_step" else leaf * before // now

    return dataclasses.replace(
        state,
        step=-(-state.step * before // now),
        opt_state=jax.tree.map_with_path(counted, state.opt_state),
    )


def _before(config: RunConfig) -> Path:
    return Path(config.continue_from).expanduser()


def _parts(table: pd.DataFrame) -> pd.DataFrame:
    """Return the part of each knee that a run uses."""
    used = table[table["part"] != knees.UNUSED]
    columns = [*knees.IDENTITY, "part"]
    return used[columns].astype(str).sort_values(columns).reset_index(drop=True)

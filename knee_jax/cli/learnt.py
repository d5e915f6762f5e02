"""Knees that a model has learnt from, whatever it is read from."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def learnt_by(model: str) -> "pd.DataFrame | None":
    """Return the knees that a model has learnt from; None if nobody knows.

    Args:
        model: Model that comes with the project, folder of a run, or exported file.

    Raises:
        UserError: There is no such model, or its list is damaged.
    """
    from knee_jax.cohort import held_out, knees
    from knee_jax.inference import exported, models

    place = models.find(model)
    if place.is_dir():
        return held_out.learnt_by(place)
    text = exported.learnt(place)
    return knees.parse(text, str(place)) if text else None

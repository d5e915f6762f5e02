"""Pictures of drawn knees, and a network that finds exactly these."""

import functools

import cv2
import numpy as np

from knee_jax.inference.found import Found
from knee_jax.inference.locate import Localiser
from knee_jax.inference.predictor import Predictor
from knee_jax.phantom.anatomy import make_knee
from knee_jax.targets import get_all

SIDE = 128

DARK = 60
"""Grey of the background; darker ones look as if they were not exposed."""


@functools.cache
def template():
    """Landmarks [74, 2] of a right knee whose plateau reaches from (0, 0) to (1, 0)."""
    knee = make_knee(np.random.default_rng(0), np.zeros(4), np.zeros(2), 80.0, 0.0)
    points = knee.landmarks - knee.landmarks[47]
    return points / np.linalg.norm(points[63])


def picture(height, width, knees):
    """Dark and grainy, a large light dot at the plateau's lateral corner, a grey at the medial.

    Returns it, and the landmarks of each knee of (x, y, plateau's width, side).
    """
    grey, planted = np.full((height, width), DARK, np.uint8), []
    for x, y, size, side in knees:
        points = template() * size * ([1, 1] if side == "R" else [-1, 1]) + (x, y)
        for corner, value in ((points[47], 250), (points[63], 130)):
            cv2.circle(grey, tuple(np.round(corner - 0.5).astype(int)), round(size / 9), value, -1)
        planted.append(points)
    # Patches of one grey value would cover the joint; a repeated one keeps files small.
    tile = np.random.default_rng(0).integers(-3, 4, (8, 8))
    grain = np.tile(tile, (-(-height // 8), -(-width // 8)))[:height, :width]
    return (grey + grain).astype(np.uint8), planted


def centre_of(image, low, high):
    """Middle of what is so bright, or None; the rims of brighter things are too thin to count."""
    mask = ((image > low) & (image <= high)).astype(np.uint8)
    y, x = np.nonzero(cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((4, 4), np.uint8)))
    return np.array([x.mean() + 0.5, y.mean() + 0.5]) if len(x) else None


def see(image, places, shown):
    """Class and places of one window: a right knee where light is left of grey."""
    first, last = centre_of(image, 200, 255), centre_of(image, 105, 155)
    if first is None or last is None:
        shown[0] = 1
        return
    along = last - first
    upright = abs(along[1]) < 0.3 * abs(along[0])
    shown[1 if upright and along[0] > 0 else 2 if upright else 4] = 1
    turn = np.array([along, [-along[1], along[0]]])
    places[:, :2] = (template() @ turn + first) / SIDE
    places[:, 2] = 0.01


def localiser():
    """The localiser with the network that finds drawn knees."""

    def forward(batch):
        images = np.asarray(batch["image"])
        shown = np.zeros((len(images), 5), np.float32)
        places = np.full((len(images), 74, 3), 0.5, np.float32)
        for i, image in enumerate(images):
            see(image, places[i], shown[i])
        return {"knee_shown": shown, "landmarks": places}

    return Localiser(
        Predictor(
            name="drawn",
            targets=get_all(("knee_shown", "landmarks")),
            needs_landmarks=False,
            reads="image",
            side=SIDE,
            forward=forward,
            heat=None,
        )
    )


def knee_at(points, looks="R", probability=0.9, error=1.0):
    """A knee that was found, of landmarks [74, 2]."""
    return Found(points, np.full(74, error), looks, probability)

"""Parts of a config: the type, range, meaning and default of every field.

`load.parse` divides a config into these parts once, and each package is passed its own. Three parts
have several kinds, selected by `name`, which are declared where they are used: `model` (the `Model`
of a file in `knee_jax/models`), `augmentation` (`knee_jax.data.augment`) and `task` (the `Settings`
of a file in `knee_jax/tasks`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from knee_jax.config.fields import option

SPLITS = ("published", "ratio", "image_ratio", "k_fold", "group_k_fold", "site_hold_out")
FOLDED = ("k_fold", "group_k_fold", "site_hold_out")
"""Kinds of split with folds, which `--mode=cv` trains one after another."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Knees that a run is trained, validated and tested on."""

    dataset: str = option(
        "phantom_xray/full", "Prepared set, with its config after a slash; made if it is missing."
    )
    manual_dir: str = option("", "Folder of your raw files, for sets that are made from them.")
    test_dataset: str = option("", "Another prepared set, all of whose knees are test knees.")
    test_manual_dir: str = option("", "Folder of the raw files of `test_dataset`.")
    split: str = option(
        "ratio",
        "Division into training, validation and test knees, by subject but for `image_ratio`, "
        "which leaks subjects and is for comparison with a paper alone. `ratio`, `k_fold` and "
        "`site_hold_out` give every part its share of each grade.",
        choices=SPLITS,
    )
    parts: tuple[int, int, int] = option(
        (2, 1, 1), "Ratio of training, validation and test knees, of the splits by ratio.", low=0
    )
    seed: int = option(
        0, "Random seed of the split alone: runs of another `config.seed` share it.", low=0
    )
    num_folds: int = option(5, "Number of folds, of splits with folds.", low=2)
    fold: int = option(0, "Fold held out for validation, from 0.", low=0)
    test_site: str = option("", "Site whose subjects are test knees, of the split `site_hold_out`.")
    published_test: str = option(
        "kept",
        "Use of a test split that the set was published with: kept as the test knees, whatever "
        "`split` divides the others by, or dealt with the others.",
        choices=("kept", "dealt"),
    )
    leaks: str = option(
        "refuse",
        "Knees to be scored that the network knows, by subject or by pixels, from training or from "
        "its initial weights: a refusal, or left out and counted in the report.",
        choices=("refuse", "leave_out"),
    )
    sampling: str = option(
        "shuffled",
        "Drawing of training knees: every knee once an epoch; with replacement, every class alike; "
        "or once, and knees of rarer classes again.",
        choices=("shuffled", "balanced", "oversampled"),
    )
    label_fraction: float = option(
        1.0, "Share of the training subjects whose labels are used.", above=0, high=1
    )
    unlabelled: str = option(
        "none",
        "Use of training knees without a label: none, in their natural share of a batch, or in the "
        "fixed share `unlabelled_share`.",
        choices=("none", "natural", "fixed"),
    )
    unlabelled_share: float = option(
        0.5, "Share of unlabelled knees in a batch where `unlabelled` is `fixed`.", low=0, below=1
    )
    partially_labelled: str = option(
        "masked",
        "Use of knees of which some targets have a label: missing ones masked, taken for "
        "unlabelled, or dropped from every part.",
        choices=("masked", "unlabelled", "drop"),
    )
    without_keypoints: str = option(
        "drop",
        "Use of knees without landmarks, by networks that read them: dropped, or read from the "
        "average of the whole map.",
        choices=("drop", "global"),
    )
    mode: str = option(
        "auto",
        "Place of the knees: on the devices, streamed from disk, or whichever memory allows.",
        choices=("auto", "resident", "streamed"),
    )
    workers: int = option(0, "Processes that read streamed knees; 0: threads.", low=0, high=512)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Input:
    """A network's input."""

    size: int = option(224, "Side of the input of films, pixels.", low=8, high=4096)
    volume: tuple[int, int, int] = option(
        (),
        "Rows, columns and slices of the input of MR volumes; empty for films.",
        low=1,
        optional=True,
    )
    channels: int = option(1, "Channels; 3 repeat the grey value.", choices=(1, 3))
    statistics: str = option(
        "plain",
        "Mean and deviation that intensities are normalised by: those of the training knees, of "
        "their augmented images, or of each image itself.",
        choices=("plain", "augmented", "each"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Adam and its learning rate."""

    name: str = option(
        "adamw",
        "Adam with decoupled weight decay, or with the decay added to the gradient.",
        choices=("adamw", "adam"),
    )
    learning_rate: float = option(1e-3, "Learning rate before any drop.", above=0, high=10)
    weight_decay: float = option(1e-2, "Weight decay.", low=0, high=10)
    warmup_epochs: int = option(
        0, "Epochs over which the rate grows to its value by equal steps.", low=0
    )
    warmup_factor: float = option(
        0.1, "Share of the rate at the start of the warm-up.", low=0, high=1
    )
    drop_epochs: tuple[int, ...] = option(
        (), "Epochs after which the rate is multiplied by `drop_factor`.", low=1, increasing=True
    )
    drop_factor: float = option(0.1, "Factor of a drop.", low=0, high=1)
    freeze_epochs: float = option(0.0, "Epochs through which the trunk rests.", low=0)
    schedule: str = option(
        "drops",
        "Course of the rate: constant with drops, a half cosine down to 0, or one cycle up and "
        "down.",
        choices=("drops", "cosine", "one_cycle"),
    )
    clip_norm: float = option(
        0.0, "Norm to which larger gradients are scaled down; 0: none are.", low=0
    )
    accumulation: int = option(
        1, "Steps whose gradients are averaged for one change of the weights.", low=1
    )
    ema_decay: float = option(
        0.0,
        "Decay of the moving average of weights that is evaluated and converted instead of the "
        "last ones; 0: no average.",
        low=0,
        below=1,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixing:
    """Training on mixtures of two knees, with the losses of both in the same proportion."""

    mixup: float = option(
        0.0, "Parameter of the beta distribution of shares of two blended images; 0: none.", low=0
    )
    cutmix: float = option(
        0.0,
        "The same of a rectangle that another image is pasted in; with both, one is drawn.",
        low=0,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Predictions and their metrics."""

    batch_size: int = option(32, "Knees in a batch.", low=1)
    mirror: bool = option(
        False, "Whether predictions are averaged with those of the mirrored image."
    )
    scales: tuple[float, ...] = option(
        (1.0,), "Magnifications of the image that predictions are averaged over.", low=0.5, high=2
    )
    shift: float = option(
        0.0,
        "Shift to either side and up and down that predictions are averaged over, as a share of "
        "the image's size; 0: none.",
        low=0,
        high=0.5,
    )
    average: str = option(
        "probabilities",
        "Average of an ensemble's members.",
        choices=("probabilities", "logits", "softmax_of_mean"),
    )
    num_resamples: int = option(1000, "Bootstrap resamples behind each interval.", low=1)
    scheme: str = option(
        "subject",
        "Resampling: subjects, or knees within each class as published.",
        choices=("subject", "class"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """Runs of `--mode=sweep`."""

    variants: Mapping[str, Any] = option(
        None, "Name → changes of numbers of the task; empty: the config itself."
    )
    seeds: int = option(1, "Seeds of each variant, from `config.seed` on.", low=1)
    at_once: int = option(0, "Runs trained side by side; 0: as many as fit.", low=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFields:
    """All fields that determine a run; `load.RunConfig` types the parts that have several kinds."""

    targets: tuple[str, ...] = option(("kl",), "Names of what is predicted (`knee_jax/targets`).")
    seed: int = option(
        0,
        "Random seed of initial weights, order of the knees, augmentation and dropout.",
        low=0,
        high=2**32 - 1,
    )
    dtype: str = option(
        "auto",
        "Type that the network computes in; auto: bfloat16, on a CPU float32.",
        choices=("auto", "float32", "bfloat16"),
    )
    init_from: str = option(
        "",
        "File of initial weights (`knee_jax.convert`), or `imagenet` for a network whose published "
        "weights are installed; empty: random.",
    )
    continue_from: str = option(
        "",
        "Folder of a run of the same knees and network that this one goes on from, through more "
        "epochs or in batches of another size; empty: from the beginning.",
    )
    batch_size: int = option(32, "Knees in a training batch, over all devices.", low=1)
    epochs: int = option(30, "Passes over the training knees.", low=1)
    fsdp: int = option(
        1,
        "Devices that share one copy of the parameters and of the optimiser's state, for networks "
        "too large for one device; 1: each has its own.",
        low=1,
    )
    steps_per_call: int = option(
        1, "Training steps in one call of the device; more where steps are short.", low=1
    )
    log_every: int = option(20, "Steps between logged scalars.", low=1)
    checkpoint_every: int = option(500, "Steps between checkpoints.", low=1)
    paper_row: str = option("", "Row of a paper's tables that the results stand beside.")
    ensemble: Mapping[str, Any] = option(
        None, "Name → changes of the config, for each network of `--mode=cv`; empty: one network."
    )
    model: Any = option(None, "Network, by `name`, and its fields.")
    augmentation: Any = option(None, "Augmentation, by `name`, and its fields.")
    task: Any = option(None, "What is optimised, by `name`, and its fields.")
    data: Data
    input: Input
    optimizer: Optimizer
    mixing: Mixing
    evaluation: Evaluation
    sweep: Sweep

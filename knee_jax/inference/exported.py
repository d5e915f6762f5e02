"""One file that holds a model: its program, weights, targets and facts; written and read here.

The file is a zip archive of

    metadata.json          version of the format, targets, input and facts of the model
    model.safetensors      weights by their path in the network
    forward.cpu            `jax.export` of (weights, batch) → decoded outputs, of any batch size;
                           preprocessing is part of it
    forward.accelerator    the same for cuda and tpu, in the forms that suit them
    heat.cpu, heat.acc...  the same of where the evidence lay, if the network shows it
    config.json            config of the run, by which a network may be trained on from the weights
    knees.csv              knees that it has learnt from, subjects by pseudonym, if they are known
    README.md              the model card, if there is one

Reading it needs no network, config or training code of the project.
"""

import dataclasses
import datetime
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export as jax_export

import knee_jax
from knee_jax import models, targets
from knee_jax.config import load as configs
from knee_jax.config.load import RunConfig
from knee_jax.errors import UserError
from knee_jax.files import atomic_write
from knee_jax.inference import run as runs
from knee_jax.inference.novelty import Novelty
from knee_jax.inference.predictor import NOVELTY, Predictor
from knee_jax.landmarks import NUM_LANDMARKS
from knee_jax.models.layers import tracing_for

SUFFIX = ".knee"

FORMAT = 1
"""Version of the format; it grows when older programs could not read a file."""

PLATFORMS = {"cpu": ("cpu",), "accelerator": ("cuda", "tpu")}
"""Platforms of each program."""

METADATA, WEIGHTS, CARD = "metadata.json", "model.safetensors", "README.md"
CONFIG, KNEES = "config.json", "knees.csv"

MOST_BYTES = 2**31
"""Bytes of a member of the archive, above which the file is refused."""


def write(
    run: str | Path,
    path: Path,
    *,
    half: bool = False,
    card: str = "",
    learnt: str = "",
    known: Novelty | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write the network of a finished run to one file.

    Args:
        run: Folder of the run.
        path: File to write.
        half: Whether weights are stored in half precision; they are computed with in single.
        card: Text of the model card, Markdown.
        learnt: List of the knees that the network has learnt from, CSV; '' if they are unknown.
        known: What the training knees are like, by which others are known as unlike them.
        facts: Further facts about the model.

    Raises:
        UserError: The run cannot be read, or does not say how large its images were.
    """
    from safetensors.numpy import save

    network = runs.read(run)
    pixels = _pixels(network, Path(run))
    weights = {
        "/".join(names): array for names, array in flatten_dict(dict(network.variables)).items()
    }
    forward = network.forward_and_novelty if known else network.forward
    functions: dict[str, runs.Function] = {"forward": forward}
    weights = {
        name: np.asarray(array, np.float16 if half else np.float32)
        for name, array in weights.items()
    }
    # Distances are differences of large numbers, which half precision does not leave.
    weights |= {
        f"{NOVELTY}/{name}": np.asarray(array, np.float32)
        for name, array in (known._asdict() if known else {}).items()
    }
    functions |= {"heat": network.heat} if network.shows_heat() else {}
    members = {
        f"{name}.{kind}": _exported(function, weights, pixels, platforms)
        for name, function in functions.items()
        for kind, platforms in PLATFORMS.items()
    }
    metadata = {
        "format": FORMAT,
        "name": path.stem,
        "version": knee_jax.__version__,
        "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "jax_version": jax.__version__,
        "targets": [target.name for target in network.targets],
        "needs_landmarks": bool(network.model.needs_keypoints),
        "reads": network.preprocessing.augmentation.reads,
        "shape": list(pixels),
        "temperatures": runs.temperatures(Path(run), network.targets),
        "platforms": [each for platforms in PLATFORMS.values() for each in platforms],
        "intended_use": "Research only. Not a medical device.",
        "facts": {
            "network": network.config.model.name,
            "data": network.config.data.dataset,
            "step": network.step,
            "weights": runs.digest(network.variables),
            **(facts or {}),
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        _add(archive, METADATA, (json.dumps(metadata, indent=2) + "\n").encode())
        # The library writes an array's memory, whatever its order is.
        weights = {name: np.asarray(array, order="C") for name, array in weights.items()}
        _add(archive, WEIGHTS, save(weights))
        for name, program in members.items():
            _add(archive, name, program)
        _add(archive, CONFIG, configs.json_of(_without_paths(network.config)).encode())
        for name, text in ((KNEES, learnt), (CARD, card)):
            if text:
                _add(archive, name, text.encode())


def _without_paths(config: RunConfig) -> RunConfig:
    """Return a config that names nothing on this machine."""
    from_file = config.init_from not in ("", models.IMAGENET)
    changes = {"data.manual_dir": "", "data.test_manual_dir": ""}
    return configs.changed(config, changes | ({"init_from": ""} if from_file else {}))


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a member with a fixed date, so that equal models make equal files."""
    info = zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, content)


def _pixels(network: runs.Network, run: Path) -> tuple[int, ...]:
    """Return the shape of the pixels that a batch holds for each knee."""
    if network.preprocessing.augmentation.reads == "volume":
        return tuple(network.config.input.volume)
    if not network.side:
        raise UserError(
            f"{run}: the run does not say how large its images were; it was trained by an earlier "
            "version: train it again"
        )
    return (network.side, network.side)


def _exported(
    function: runs.Function,
    weights: Mapping[str, np.ndarray],
    pixels: tuple[int, ...],
    platforms: Sequence[str],
) -> bytes:
    """Serialise a function of (weights by name, batch) for some platforms and any batch size."""

    def by_name(weights: Mapping[str, jax.Array], batch: Any) -> Any:
        variables = unflatten_dict({tuple(name.split("/")): w for name, w in weights.items()})
        return function({"batch_stats": {}, **variables}, batch)

    (batch,) = jax_export.symbolic_shape("batch")
    reads = "volume" if len(pixels) == 3 else "image"
    knees = {
        reads: _array((batch, *pixels), jnp.uint8),
        "keypoints": _array((batch, NUM_LANDMARKS, 2), jnp.float32),
    }
    shapes = {name: _array(array.shape, jnp.float32) for name, array in weights.items()}
    with tracing_for(platforms[0]):
        exported = jax_export.export(jax.jit(by_name), platforms=platforms)(shapes, knees)
    return bytes(exported.serialize())


def _array(shape: tuple[Any, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


@dataclasses.dataclass(frozen=True)
class _File:
    """Members of an archive that was opened and checked."""

    path: Path
    archive: zipfile.ZipFile
    metadata: Mapping[str, Any]

    def read(self, name: str) -> bytes:
        """Return a member.

        Raises:
            UserError: It is missing, damaged or too large.
        """
        try:
            if self.archive.getinfo(name).file_size > MOST_BYTES:
                raise UserError(f"{self.path}: {name} is larger than any model; it is damaged")
            return self.archive.read(name)
        except (KeyError, zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
            raise UserError(
                f"{self.path}: {name} is missing or damaged; export the model again"
            ) from error
        except Exception as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{self.path}: {name} is damaged; export the model again") from error


def load(path: str | Path) -> Predictor:
    """Read a model from its file.

    Raises:
        UserError: It is no such file, is damaged, or was written by a newer version.
    """
    path = Path(path)
    file = _open(path)
    metadata, archive = file.metadata, file.archive
    weights = {name: jnp.asarray(array) for name, array in _weights(file).items()}
    kind = "cpu" if jax.default_backend() == "cpu" else "accelerator"

    def compiled(name: str) -> Callable[[Any], Any]:
        try:
            call = jax_export.deserialize(bytearray(file.read(f"{name}.{kind}"))).call
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{path}: its program cannot be read by jax {jax.__version__}; export the model "
                "again, or install a newer jax"
            ) from error
        function = jax.jit(call)
        return lambda batch: function(weights, dict(batch))

    shows_heat = f"heat.{kind}" in archive.namelist()
    shape = metadata["shape"]
    return Predictor(
        name=metadata["name"],
        targets=targets.get_all(metadata["targets"]),
        needs_landmarks=metadata["needs_landmarks"],
        reads=metadata["reads"],
        side=shape[0] if metadata["reads"] == "image" else 0,
        forward=compiled("forward"),
        heat=compiled("heat") if shows_heat else None,
        temperatures=metadata["temperatures"],
        facts={"version": metadata["version"], "created": metadata["created"], **metadata["facts"]},
        card=file.read(CARD).decode(errors="replace") if CARD in archive.namelist() else "",
    )


def contents(path: Path) -> tuple[RunConfig, dict[str, np.ndarray]]:
    """Return the config of the run behind a file, and its weights by path, float32.

    Raises:
        UserError: As `load`; or an earlier version wrote it, without the config.
    """
    file = _open(path)
    if CONFIG not in file.archive.namelist():
        raise UserError(
            f"{path}: does not hold the config of its run, as an earlier version wrote it: export "
            "the run again, or name its folder"
        )
    try:
        values = json.loads(file.read(CONFIG))
    except ValueError as error:
        raise UserError(f"{path}: {CONFIG} is damaged; export the model again") from error
    weights = {
        name: array for name, array in _weights(file).items() if not name.startswith(f"{NOVELTY}/")
    }
    return configs.parse(values), weights


def learnt(path: Path) -> str:
    """Return the list of knees that the model of a file has learnt from, CSV; '' if unknown.

    Raises:
        UserError: As `load`.
    """
    file = _open(path)
    return file.read(KNEES).decode() if KNEES in file.archive.namelist() else ""


def _open(path: Path) -> _File:
    """Open a file, and check its format."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of a model") from None
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{path}: is no exported model, or was cut short; `knee-jax export` makes one"
        ) from error
    return _File(path, archive, _checked(_File(path, archive, {})))


def _checked(file: _File) -> dict[str, Any]:
    """Return the metadata of a file of a known format."""
    try:
        metadata = json.loads(file.read(METADATA))
        found = int(metadata["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file.path}: {METADATA} is damaged; export the model again") from error
    if found > FORMAT:
        raise UserError(
            f"{file.path}: is of format {found}, and this version reads up to {FORMAT}: install a "
            "newer knee_jax"
        )
    wanted = {"name", "version", "created", "targets", "needs_landmarks", "reads", "shape"}
    wanted |= {"temperatures", "facts"}
    if absent := sorted(wanted - metadata.keys()):
        raise UserError(f"{file.path}: {METADATA} lacks {', '.join(absent)}; export it again")
    return dict(metadata)


def _weights(file: _File) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_tensors

    try:
        arrays = load_tensors(file.read(WEIGHTS))
    except SafetensorError as error:
        raise UserError(f"{file.path}: {WEIGHTS} is damaged; export the model again") from error
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}

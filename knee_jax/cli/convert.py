"""Convert weights from PyTorch to ours, and ours to PyTorch.

    knee-jax convert --weights=FILE --model=NAME --out=FILE.npz    # for config.init_from
    knee-jax convert --weights=FILE.npz --out=FILE.safetensors     # for PyTorch
    knee-jax convert --weights=RUN_FOLDER --out=FILE.safetensors   # a run's best network

Every name and shape of the trunk is checked, and the printed summary lists what is left out.
"""

from absl import flags

from knee_jax.cli import path

KNEES = "knees.csv"

MODELS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("densenet121", "densenet161", "densenet169", "densenet201"),
    *("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    *("resnext50_32x4d", "se_resnet50", "se_resnext50_32x4d"),
)
"""Keys of `knee_jax.inference.conversion.MODELS`, listed here to avoid importing all networks."""


def define_flags() -> None:
    """Define the flags."""
    flags.DEFINE_string("weights", None, "Local file of weights, or a run's folder.", required=True)
    flags.DEFINE_string("out", None, "File to write: .npz, .safetensors or .pth.", required=True)
    flags.DEFINE_enum("model", None, MODELS, "Network that a foreign file must hold.")
    flags.DEFINE_enum(
        "layout",
        None,
        ["ours", "torch"],
        "Layout of the result; default: ours in .npz, torch in other files.",
    )
    flags.DEFINE_integer(
        "width", None, "Channels of the network's stem; default: as published.", lower_bound=1
    )
    flags.DEFINE_enum(
        "channels",
        None,
        ["1", "3"],
        "Channels that the stem reads in the result; default: as now.",
    )
    flags.DEFINE_bool(
        "partial", False, "Take what fits --model where layers are missing; the rest is random."
    )
    flags.DEFINE_bool("heads", True, "Keep our heads; --noheads keeps the trunk alone.")


def main(_: list[str]) -> None:
    """Convert the weights and print what was done."""
    from knee_jax.files import write_bytes
    from knee_jax.inference.conversion import convert

    options = flags.FLAGS
    source, out = path(options.weights), path(options.out)
    print(
        convert(
            str(source),
            str(out),
            options.model,
            layout=options.layout,
            width=options.width,
            heads=options.heads,
            channels=int(options.channels) if options.channels else None,
            partial=options.partial,
        )
    )
    # The knees that the weights have learnt from go with them.
    if (source / KNEES).is_file():
        beside = out.with_name(f"{out.name}.{KNEES}")
        write_bytes(beside, (source / KNEES).read_bytes())
        print(f"the knees that they have learnt from: {beside}")

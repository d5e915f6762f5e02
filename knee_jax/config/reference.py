"""Reference of all config fields, made from the schema: `knee-jax train --help-config`."""

from collections.abc import Iterator
from typing import Any

from knee_jax.config import fields
from knee_jax.config.fields import Option
from knee_jax.config.schema import RunFields

HEAD = """# Config fields

Made from the code by `knee-jax train --help-config`; do not edit.

Every field may be changed on the command line, `--config.FIELD=VALUE`; tuples are written
`--config.data.parts="(7,1,2)"`. All values are checked before any data is touched. The defaults are
those of the neutral base; a config file (`configs/`) changes them, and its docstring says why.
`targets` may be any of: {targets}.
"""


def render() -> str:
    """Return the reference as Markdown."""
    from knee_jax import models, targets, tasks
    from knee_jax.data import augment

    parts = [HEAD.format(targets=", ".join(f"`{name}`" for name in targets.all_targets()))]
    parts.append("\n## The run\n\n" + _table("", RunFields, nested=False))
    for field, hint, known in fields.options(RunFields):
        if known is None:
            parts.append(f"\n## {field.name}\n\n{hint.__doc__}\n\n" + _table(field.name, hint))
    for part, kinds in (
        ("task", tasks.all_settings()),
        ("augmentation", augment.all_kinds()),
        ("model", {name: models.find(name) for name in models.names()}),
    ):
        parts.append(f"\n## {part}, by `{part}.name`\n")
        for name, kind in kinds.items():
            summary = str(kind.__doc__).strip().partition("\n")[0]
            parts.append(f"\n### {name}\n\n{summary}\n\n" + _table(part, kind))
    return "".join(parts)


def _table(prefix: str, kind: type, nested: bool = True) -> str:
    rows = list(_rows(prefix, kind, nested))
    return "\n".join(["| field | default | values | meaning |", "|---|---|---|---|", *rows, ""])


def _rows(prefix: str, kind: type, nested: bool) -> Iterator[str]:
    for field, hint, known in fields.options(kind):
        name = f"{prefix}.{field.name}".removeprefix(".")
        if known is None:
            if nested:
                yield from _rows(name, hint, nested)
        else:
            meaning = known.meaning.replace("|", "\\|")
            yield f"| `{name}` | {_default(field.default)} | {_values(hint, known)} | {meaning} |"


def _default(value: Any) -> str:
    return "" if value in (None, "") else f"`{value!r}`"


def _values(hint: Any, known: Option) -> str:
    if hint is Any or fields.is_mapping(hint):
        return "a part"
    words = fields.expected(hint, known)
    return words.removeprefix("a ").removeprefix("one of ")

"""The pages' templates."""

from pathlib import Path

import jinja2


def template(name: str) -> jinja2.Template:
    """A template of this folder; what it is given is escaped, and nothing may be missing."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)

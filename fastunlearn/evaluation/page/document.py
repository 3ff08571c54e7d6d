"""One HTML file out of a template, with style and script inside it and nothing from outside."""

import base64
import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...files import atomic_write
from .. import style
from . import text

if TYPE_CHECKING:
    from jinja2 import Environment

HERE = Path(__file__).parent
COLOURS = ("INK", "MUTED", "LINE", "BEFORE", "AFTER", "FORGET", "TINT", "FORGET_LIGHT")
FILTERS = ("count", "number", "percent", "signed", "interval", "signed_interval", "span", "duration", "label")


def write_document(path: str | Path, template: str, **context: Any) -> None:
    """Render a template of this folder and write it, whole or not at all.

    Everything in `context` is escaped. A Content-Security-Policy that knows the script by its hash is the second line:
    what came through all the same would neither run nor load anything.

    Args:
        path: of the HTML file.
        template: its name.
        context: what it asks for; a name that is not given is an error.

    Raises:
        FastUnlearnError: the file could not be written.
    """
    html = environment().get_template(template).render(**context)
    with atomic_write(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def stylesheet() -> str:
    """The style that all pages share, with the colours of the pictures."""
    palette = "".join(f"--light-{name.lower().replace('_', '-')}:{getattr(style, name)};" for name in COLOURS)
    return f":root{{{palette}}}\n" + (HERE / "page.css").read_text(encoding="utf-8")


def script() -> str:
    """The script that all pages share."""
    return (HERE / "page.js").read_text(encoding="utf-8")


@functools.cache
def environment(folder: Path = HERE) -> "Environment":
    """Templates of a folder, which find those of this one too; everything is escaped, a name not given is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader([folder, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    digest = base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()
    environment.filters |= {name: getattr(text, name) for name in FILTERS}
    environment.globals |= {
        "css": Markup(stylesheet()),
        "script": Markup(script()),
        "policy": f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
    }
    return environment

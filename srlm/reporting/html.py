"""Self-contained HTML pages with a Content-Security-Policy that allows their own styles and scripts, by hash.

Texts of people and models are untrusted: Jinja escapes them as they are inserted.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from srlm import __version__


def render_page(
    template: str, styles: Sequence[str], scripts: Sequence[str] = (), script_sources: str = "", **values: Any
) -> str:
    """Return a page made from files in `assets`.

    Parameters
    ----------
    template : str
        A Jinja template. It gets `values`, `policy`, `styles`, `scripts` and `version`.
    styles, scripts : sequence of str
        The files that the page contains and allows.
    script_sources : str
        Further sources of scripts that the page allows.
    """
    files = {name: asset(name) for name in (*styles, *scripts)}
    allowed = {
        f"{kind}-src": " ".join([*(f"'{fingerprint(files[name])}'" for name in names), *more])
        for kind, names, more in (("script", scripts, script_sources.split()), ("style", styles, []))
    }
    rules = ["default-src 'none'", *(f"{kind} {rule}" for kind, rule in allowed.items() if rule)]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(asset(template)).render(
        policy="; ".join([*rules, "base-uri 'none'", "form-action 'none'"]),
        styles=[Markup(files[name]) for name in styles],  # our own files; everything else is escaped
        scripts=[Markup(files[name]) for name in scripts],
        version=__version__,
        **values,
    )
    # "replace": a lone surrogate, which JSON can contain, has no UTF-8.
    return page.encode("utf-8", "replace").decode("utf-8")


def asset(name: str) -> str:
    """Return the text of a file of this package."""
    return resources.files("srlm.reporting").joinpath("assets", name).read_text(encoding="utf-8").strip()


def fingerprint(text: str) -> str:
    """Return a source's hash as a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

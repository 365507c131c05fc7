"""Prompt templates: text files with {{names}}, filled in one pass; untrusted text is made harmless first."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from srlm.errors import ConfigError

_NAME = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_TAG = re.compile(r"<\s*/?\s*([a-z_]+)\b[^<>]{0,40}>", re.IGNORECASE)
_VERDICT_MARKER = re.compile(r"(\bscore|评分|得分)(\s*\**\s*)[:：=]", re.IGNORECASE)
_VERDICT = re.compile(
    _VERDICT_MARKER.pattern + r"\s*\**\s*[-+]?\d+(?:[.,]\d+)?(?:\s*\**\s*(?:/|out of)\s*\d+)?", re.IGNORECASE
)
_UNSEEN = re.compile("[\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]")  # zero width, and turns of direction


@dataclass(frozen=True)
class Template:
    """A prompt template and what marks off untrusted text in it.

    Attributes
    ----------
    name : str
    text : str
        With {{name}} where a value goes.
    """

    name: str
    text: str

    @classmethod
    def load(cls, name: str, package: str, option: str, fields: tuple[str, ...]) -> Template:
        """A packaged template by name, or a .txt file by path.

        Parameters
        ----------
        package : str
            The package whose `templates` folder holds the named ones.
        option : str
            The option that names it, for the error.
        fields : tuple of str
            The names that must occur in it, and the only ones that may.

        Raises
        ------
        ConfigError
            If there is no such template, it is not UTF-8, or it lacks a field or has another.
        """
        folder = resources.files(package) / "templates"
        known = sorted(file.name.removesuffix(".txt") for file in folder.iterdir() if file.name.endswith(".txt"))
        path = Path(name).expanduser()
        if name in known:
            text = (folder / f"{name}.txt").read_text(encoding="utf-8")
        elif path.is_file():
            try:
                text = path.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError as error:
                raise ConfigError(
                    f"{option}={name}: byte {error.start} of the file is not UTF-8. Save the file as UTF-8."
                ) from error
        else:
            raise ConfigError(f"{option}={name}: neither a template of {package} ({', '.join(known)}) nor a file.")
        found = set(_NAME.findall(text))
        if found != set(fields):
            raise ConfigError(
                f"{option}={name}: the template must hold exactly {', '.join(f'{{{{{f}}}}}' for f in fields)}; "
                f"it holds {', '.join(f'{{{{{f}}}}}' for f in sorted(found)) or 'none'}."
            )
        return cls(name, text.strip("\n"))

    @property
    def digest(self) -> str:
        """Hash of the text, for manifests."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def fill(self, **values: str) -> str:
        """The template with its names replaced, in one pass: braces or names inside a value stay as they are.

        Values are untrusted: `neutralise` is applied to each.
        """
        return _NAME.sub(lambda match: self.neutralise(values[match[1]]), self.text)

    def neutralise(self, text: str) -> str:
        """`text` with the template's own markers made harmless.

        The tags that mark off blocks in this template lose their angle brackets, so that text cannot close its block or
        open another. A verdict of its own ("Score: 5", in whatever digits) loses its number, since a judge that is
        about to write one is prone to copy it, and "Score:" alone its colon. Characters that cannot be seen go.
        """
        text = _UNSEEN.sub("", text)
        tags = {tag.lower() for tag in _TAG.findall(self.text)}
        text = _TAG.sub(lambda match: f"({match[0][1:-1]})" if match[1].lower() in tags else match[0], text)
        return _VERDICT_MARKER.sub(r"\1\2 -", _VERDICT.sub(r"\1 (left out)", text))

"""Prompt templates: text files with {{fields}}, which are filled with escaped untrusted text in one pass."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from srlm.errors import ConfigError
from srlm.models.conversation import transcript
from srlm.types import Conversation

_NAME = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_TAG = re.compile(r"<\s*/?\s*([a-z_]+)\b[^<>]{0,40}>", re.IGNORECASE)
_VERDICT_MARKER = re.compile(r"(\bscore|评分|得分)(\s*\**\s*)[:：=]", re.IGNORECASE)
_VERDICT = re.compile(
    _VERDICT_MARKER.pattern + r"\s*\**\s*[-+]?\d+(?:[.,]\d+)?(?:\s*\**\s*(?:/|out of)\s*\d+)?", re.IGNORECASE
)
_ROLES = ("system", "user", "assistant")  # tags of a conversation's turns
_UNSEEN = re.compile("[\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]")  # zero width, and changes of text direction


@dataclass(frozen=True)
class Template:
    """A prompt template.

    Attributes
    ----------
    name : str
        The template's name or path.
    text : str
        The text, with {{field}} for each value.
    """

    name: str
    text: str

    @classmethod
    def load(cls, name: str, package: str, option: str, fields: tuple[str, ...]) -> Template:
        """Load a packaged template by name, or a .txt file by path.

        Parameters
        ----------
        package : str
            The package whose `templates` folder contains the packaged templates.
        option : str
            The option that names the template, for error messages.
        fields : tuple of str
            The template must contain all of these fields and no others.

        Raises
        ------
        ConfigError
            If the template does not exist, is not UTF-8, or its fields differ from `fields`.
        """
        folder = resources.files(package) / "templates"
        packaged = sorted(file.name.removesuffix(".txt") for file in folder.iterdir() if file.name.endswith(".txt"))
        path = Path(name).expanduser()
        if name in packaged:
            text = (folder / f"{name}.txt").read_text(encoding="utf-8")
        elif path.is_file():
            try:
                text = path.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError as error:
                raise ConfigError(
                    f"{option}={name}: byte {error.start} of the file is not UTF-8. Save the file as UTF-8."
                ) from error
        else:
            raise ConfigError(f"{option}={name}: neither a template of {package} ({', '.join(packaged)}) nor a file.")
        present = set(_NAME.findall(text))
        if present != set(fields):
            raise ConfigError(
                f"{option}={name}: the template must contain exactly {', '.join(f'{{{{{f}}}}}' for f in fields)}; "
                f"it contains {', '.join(f'{{{{{f}}}}}' for f in sorted(present)) or 'none'}."
            )
        return cls(name, text.strip("\n"))

    @property
    def digest(self) -> str:
        """Return the hash of the text, for manifests."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def fill(self, **values: Conversation) -> str:
        """Return the template with its fields replaced by `values`, which are untrusted and escaped by `neutralise`.

        A conversation is shown with its roles. Braces and field names inside a value are not replaced.
        """

        def shown(match: re.Match[str]) -> str:
            value = values[match[1]]
            roles = () if isinstance(value, str) else _ROLES
            return transcript(value, lambda text: self.neutralise(text, roles))

        return _NAME.sub(shown, self.text)

    def neutralise(self, text: str, tags: Sequence[str] = ()) -> str:
        """Return `text` without markers that this template or a judge uses.

        The tags of this template's blocks, and those named in `tags`, lose their angle brackets, so that a text cannot
        close its block or open another one. A verdict in the text ("Score: 5", in any digits) loses its number, because
        judges tend to copy it; "Score:" without a number loses its colon. Invisible characters are removed.
        """
        text = _UNSEEN.sub("", text)
        own = {*tags, *(tag.lower() for tag in _TAG.findall(self.text))}
        text = _TAG.sub(lambda match: f"({match[0][1:-1]})" if match[1].lower() in own else match[0], text)
        return _VERDICT_MARKER.sub(r"\1\2 -", _VERDICT.sub(r"\1 (left out)", text))

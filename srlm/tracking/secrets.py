"""Remove what must not leave the machine from what trackers log."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def without_secrets(value: Any, home: str) -> Any:
    """Return plain data in which the home folder's path is ~ and URLs have no user and password."""
    if isinstance(value, Mapping):
        return {without_secrets(key, home): without_secrets(inner, home) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(inner, home) for inner in value]
    if not isinstance(value, str):
        return value
    value = re.sub(rf"{re.escape(home)}(?![^/\s\"'])", "~", value) if len(home) > 1 else value
    return re.sub(r"(?<=://)[^/@\s]+@", "", value)

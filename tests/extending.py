"""The examples of docs/extending.md: each Python block is a module, whose first line names its file."""

from __future__ import annotations

import re
from pathlib import Path

from tests.helpers import ROOT

PAGE = ROOT / "docs" / "extending.md"
EXAMPLES: dict[str, str] = {
    name: code for name, code in re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```", PAGE.read_text(), re.M | re.S)
}


def write_examples(folder: Path) -> Path:
    """Write every example into a folder outside the package, as a user does."""
    for name, code in EXAMPLES.items():
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    return folder

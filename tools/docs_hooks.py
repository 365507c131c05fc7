"""Hooks of mkdocs: pages that are generated, documents outside docs/, and links between all of them.

The site contains the configuration reference, a page for each package with the docstrings of its modules, and the
repository's documents outside docs/. All links are written so that they work in the repository. In the site, a link to
a module leads to its docstrings, and a link to another file of the repository becomes plain text.
"""

from __future__ import annotations

import ast
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tools.config_reference import page as configuration_page  # noqa: E402

OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/*.md", "experiments/**/*.md", "experiments/**/*.png")
LINK = re.compile(r"(!?)\[((?:[^\[\]`]|`[^`]*`)*)\]\(([^()\s]+)\)")
API = """# Python API

[Python functions](../python_api.md) introduces `import srlm`, whose functions are in `srlm.api`. Every package has a
page with the docstrings of its public names.

| package | contents |
|---|---|
"""


def summary(path: Path) -> str:
    """Return the first line of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def packages() -> dict[str, list[Path]]:
    """Return package name -> its modules with public names, sorted; the package itself is `srlm` for the top level."""
    found: dict[str, list[Path]] = {}
    for path in sorted((ROOT / "srlm").rglob("*.py")):
        if path.stem not in ("__init__", "__main__"):
            parts = path.relative_to(ROOT).parent.parts
            found.setdefault(".".join(parts[:2]), []).append(path)
    return dict(sorted(found.items()))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def api_page(package: str, modules: list[Path]) -> str:
    """Return the page of one package: its docstring, then each module by mkdocstrings."""
    head = f"# {package}\n\n{summary(ROOT.joinpath(*package.split('.'), '__init__.py'))}\n"
    return head + "".join(f"\n::: {module_name(path)}\n" for path in modules)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add a page for each package to the navigation."""
    pages: list[Any] = ["api/index.md", *({name: f"api/{name}.md"} for name in packages())]
    assert config.nav is not None
    config.nav.insert(-1, {"Python API": pages})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add generated pages and the documents outside docs/."""
    rows = "".join(
        f"| [{name}]({name}.md) | {summary(ROOT.joinpath(*name.split('.'), '__init__.py'))} |\n" for name in packages()
    )
    generated = {"configuration.md": configuration_page(), "api/index.md": API + rows}
    generated |= {f"api/{name}.md": api_page(name, modules) for name, modules in packages().items()}
    for name, content in generated.items():
        files.append(File.generated(config, name, content=content))
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page, which work in the repository, into links of the site."""
    if page.file.generated_by:
        return markdown
    here = page.file.src_uri
    inside = (ROOT / "docs" / here).exists()
    folder = posixpath.dirname(f"docs/{here}" if inside else here)

    def site_link(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        name, _, anchor = target.partition("#")
        target = target_in_site(posixpath.normpath(posixpath.join(folder, name)), files)
        if target is None:
            return text
        path, _, own = target.partition("#")
        path, mark, anchor = posixpath.relpath(path, posixpath.dirname(here) or "."), "#", own or anchor
        return f"{image}[{text}]({path}{mark if anchor else ''}{anchor})"

    if here == "metrics.md":
        markdown = re.sub(r"(\| [^`|]*)<(\w+)>", r"\1&lt;\2&gt;", markdown)
    blocks = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(block if block.startswith("```") else LINK.sub(site_link, block) for block in blocks)


def target_in_site(name: str, files: Files) -> str | None:
    """Return the page of the site, with an anchor for a module, for a file or folder of the repository; None if none.

    Parameters
    ----------
    name : str
        Path from the repository's root.
    """
    if name == "README.md":
        return "index.md"
    inside = name.removeprefix("docs/")
    for page in (inside, f"{inside}/README.md"):
        if files.get_file_from_path(page):
            return page
    if re.fullmatch(r"srlm/.*\.py", name):
        module = name.removesuffix(".py").replace("/", ".")
        return f"api/{'.'.join(module.split('.')[:-1][:2])}.md#{module}"
    return None

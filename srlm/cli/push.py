"""`srlm push RUN --to OWNER/NAME`: upload a model with its card, and optionally the generated data, to the Hub.

All files are checked before anything is uploaded. Weights must be safetensors; files of other types are skipped. API
keys, tokens and local paths in a file stop the upload. `--dry-run` runs all checks without contacting the Hub. The
token is read by huggingface_hub (HF_TOKEN, or `hf auth login`); it is neither an option nor ever printed.

Seed data may have licences that forbid redistribution, so they are uploaded only with `--seeds`.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from safetensors import SafetensorError, safe_open

from srlm import __version__
from srlm.errors import PushError
from srlm.io.progress import say
from srlm.pipeline.run_reader import finished_iterations, finished_output, model_name, model_stage, open_run
from srlm.pipeline.workspace import CARD, Workspace
from srlm.reporting.dataset_card import data_card, data_files
from srlm.reporting.model_card import model_card, seed_paths
from srlm.run import user_errors

# Files of a checkpoint; "*.model" is SentencePiece.
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth", "*.gguf")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)

_SECRETS = {
    r"\bhf_[A-Za-z0-9]{30,}": "a Hub token",
    r"\bsk-[\w-]{20,}|\bAIza[\w-]{35}|\bxox[abprs]-[\w-]{10,}|\bAKIA[0-9A-Z]{16}\b": "an API key",
    r"\bgh[opsur]_[A-Za-z0-9]{36}|\bgithub_pat_\w{40,}|\bglpat-[\w-]{20}": "a token of a code server",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----": "a private key",
}
_LOCAL_PATH = (
    r"(?<![\w.:/-])(?:/(?:home|Users|root|mnt|media|srv|scratch|tmp|data|work)/|~/|[A-Za-z]:\\+Users\\+)[\w.-]+"
)
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")
_SHORTEST_SECRET = 12  # minimum characters of an environment variable's value; shorter values occur in ordinary text


@dataclass(frozen=True)
class Upload:
    """The files to upload to one repository of the Hub."""

    place: str  # OWNER/NAME
    kind: str  # "model" or "dataset"
    title: str  # commit message
    files: Mapping[str, Path | bytes]  # path in the repository -> a file, or the content
    skipped: Mapping[str, str] = field(default_factory=dict)  # file -> reason


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="srlm push", description="Upload a model with its card to the Hub.")
    options.add_argument("run", metavar="RUN", help="a run's folder, such as runs/default")
    options.add_argument("--to", required=True, metavar="OWNER/NAME", help="the repository; created if it is missing")
    options.add_argument("--model", type=int, metavar="t", help="which M_t, from 1 (default: the last evaluated model)")
    options.add_argument(
        "--data", action="store_true", help="also upload prompts, candidates, judgements and pairs as a dataset"
    )
    options.add_argument("--seeds", action="store_true", help="with --data: include the seeds, if their licences allow")
    options.add_argument("--private", action="store_true", help="upload to private repositories only")
    options.add_argument("--dry-run", action="store_true", help="show and check all files without uploading")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    with user_errors():
        workspace = open_run(given.run)
        uploads = plan(workspace, given.to, given.model, given.data, given.seeds)
        for upload in uploads:
            _show(upload, given.private)
        refuse(workspace, uploads)
        if given.dry_run:
            say("\nDry run: nothing was uploaded.")
        else:
            for place in push(uploads, given.private):
                say(f"Uploaded  {place}")


def plan(workspace: Workspace, place: str, t: int | None, data: bool, seeds: bool) -> list[Upload]:
    """Return the uploads, with their files and the skipped files.

    Parameters
    ----------
    place : str
        OWNER/NAME of the model and of the dataset.
    t : int or None
        The model, from 1; None = the last evaluated model.

    Raises
    ------
    PushError
        If `place` is not a Hub id, the run has no such model, or no generated data.
    RunFolderError
        If the model or its records are not complete, or were changed later.
    """
    if not _HUB_ID.fullmatch(place):
        raise PushError(f"--to {place} is not a Hub repository. Use OWNER/NAME.")
    if seeds and not data:
        raise PushError("--seeds adds the seeds to the dataset of generated data. Use it together with --data.")
    evaluated = [u for u in finished_iterations(workspace, "evaluation") if u >= 1]
    if not evaluated or (t is not None and t not in evaluated):
        present = ", ".join(f"M{u}" for u in evaluated) or "none"
        requested = "model" if t is None else f"M{t}"
        raise PushError(
            f"{workspace.root} has no trained and evaluated {requested}. Available: {present} (M0 is the base model, "
            "which the run does not train)."
        )
    t = evaluated[-1] if t is None else t
    if workspace.is_base(t):
        raise PushError("M1 is M0 (sft.data=none), so there is no model to upload. Continue the run: iteration=2.")
    config, title = workspace.config(), f"{model_name(workspace, t)}, srlm {__version__}"
    folder = finished_output(workspace, t, model_stage(workspace, t), "model")
    files: dict[str, Path | bytes] = {CARD: model_card(workspace, config, t, place).encode()}
    skipped: dict[str, str] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / CARD):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not any(fnmatch.fnmatch(path.name, pattern) for pattern in _MODEL_FILES):
            skipped[name] = "a link" if path.is_symlink() else "not a checkpoint file"
        else:
            files[name] = path
    uploads = [Upload(place, "model", title, files, skipped)]
    if data:
        if t < 2:
            raise PushError("M1 is trained on seed data only, so there is no generated data. Remove --data.")
        groups = [group for group in ("prompts", "judgements", "pairs") if group in seed_paths(config)]
        if groups and not seeds:
            raise PushError(
                f"The run takes {groups[0]}.path from other data, which may have licences that forbid redistribution. "
                "To upload them with the run's data, add --seeds."
            )
        records, kinds = data_files(workspace, t, seeds)
        card = data_card(workspace, config, t, kinds, place, seeds).encode()
        uploads.append(Upload(place, "dataset", title, {CARD: card, **records}))
    return uploads


def refuse(workspace: Workspace, uploads: Sequence[Upload]) -> None:
    """Check every file before the upload.

    Raises
    ------
    PushError
        If a file is a pickle, or contains a secret or a local path. The message names the file, but not the secret.
    """
    lines = [
        f"  {upload.kind} {name}{problem}"
        for upload in uploads
        for name, source in upload.files.items()
        for problem in problems(name, source, _own(workspace))
    ]
    if lines:
        raise PushError(
            "Nothing was uploaded, because of:\n"
            + "\n".join(lines)
            + "\nFix the cause (an option, a seed, a file of the base model) and rerun the command. If it is a "
            "generated text, remove --data."
        )


def problems(name: str, source: Path | bytes, own: Mapping[str, str]) -> list[str]:
    """Return the reasons not to upload a file, as ":LINE: reason" or ": reason".

    Parameters
    ----------
    name : str
        The file's path in the repository.
    own : mapping
        Additional forbidden patterns (regular expressions) -> description.
    """
    if name.endswith(".safetensors"):
        assert isinstance(source, Path)
        try:
            with safe_open(source, "numpy") as file:
                header = json.dumps([file.metadata(), [*file.keys()]])
        except SafetensorError:
            return [": not a safetensors file"]
        return _in_text(header, own, True)
    content = source if isinstance(source, bytes) else source.read_bytes()
    if content[:4] == b"PK\x03\x04" or (content[:1] == b"\x80" and content[1:2] <= b"\x05"):
        return [": a pickle, which can execute code when it is loaded"]
    if name.endswith(".model"):
        return _in_text(content.decode("utf-8", errors="replace"), own, False)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return [": not UTF-8 text"]
    # Vocabularies and generated texts may contain any path; other files must not.
    return _in_text(text, own, not name.endswith(".jsonl") and name not in ("tokenizer.json", "vocab.json"))


def push(uploads: Sequence[Upload], private: bool) -> list[str]:
    """Upload the checked files, each repository in one commit, and return the repositories' URLs.

    Raises
    ------
    PushError
        If there is no Hub token, the upload fails, a repository is public with `private`, or a repository contains
        other weights.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the HTTP library that it uses

    token = get_token()
    if not token:
        raise PushError("There is no Hub token: set HF_TOKEN, or log in with `hf auth login`.")
    api, done = HfApi(), []
    try:
        urls = [_prepare_repository(api, upload, private) for upload in uploads]
        for upload, url in zip(uploads, urls, strict=True):
            operations = [
                CommitOperationAdd(
                    path_in_repo=name, path_or_fileobj=source if isinstance(source, bytes) else str(source)
                )
                for name, source in upload.files.items()
            ]
            api.create_commit(upload.place, operations, repo_type=upload.kind, commit_message=upload.title)
            done.append(url)
    except (HTTPError, OSError) as error:  # refused, or no connection
        message = str(error).replace(token, "(the token)")
        raise PushError(
            f"The upload failed ({type(error).__name__}: {message}). Uploaded before: "
            f"{', '.join(done) or 'nothing'}. Rerun the same command to continue."
        ) from error
    return done


def _prepare_repository(api: Any, upload: Upload, private: bool) -> str:
    """Create the repository if it is missing, check its state, and return its URL."""
    where = {"repo_id": upload.place, "repo_type": upload.kind}
    url = api.create_repo(**where, private=True if private else None, exist_ok=True)
    if private and not api.repo_info(**where).private:
        raise PushError(f"The {upload.kind} {upload.place} already exists and is public. Make it private first.")
    others = set(api.list_repo_files(**where)) - set(upload.files)
    if stale := sorted(name for name in others if any(fnmatch.fnmatch(name, pattern) for pattern in _WEIGHTS)):
        raise PushError(
            f"The {upload.kind} {upload.place} already contains other weights ({', '.join(stale)}), which could be "
            "loaded instead of the new ones. Delete them on the Hub, or use another --to."
        )
    return str(url)


def _show(upload: Upload, private: bool) -> None:
    say(f"\n{upload.kind} {upload.place}{' (private)' if private else ''}: {upload.title}")
    sizes = {name: len(s) if isinstance(s, bytes) else s.stat().st_size for name, s in upload.files.items()}
    for name, size in sizes.items():
        say(f"  {decimal(size):>10}  {name}")
    say(f"  {decimal(sum(sizes.values())):>10}  total")
    for name, reason in upload.skipped.items():
        say(f"  skipped: {name} ({reason})")


def _own(workspace: Workspace) -> dict[str, str]:
    """Return patterns of this machine's secrets and local paths, with their descriptions."""
    from huggingface_hub import get_token

    secrets = {
        value: f"the value of the environment variable {name}"
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name.upper()) and len(value) >= _SHORTEST_SECRET
    }
    if token := get_token():
        secrets[token] = "the Hub token"
    folders = {Path.home(), workspace.root, Path(workspace.run().get("base_model", "/")).parent}
    prefixes = sorted(f"{folder}/" for folder in folders if len(folder.parts) > 1)
    return {re.escape(value): description for value, description in secrets.items()} | {
        rf"(?<![\w/.-]){re.escape(prefix)}": "a path of this machine" for prefix in prefixes
    }


def _in_text(text: str, own: Mapping[str, str], no_paths: bool) -> list[str]:
    patterns = {**_SECRETS, **own, **({_LOCAL_PATH: "a local path"} if no_paths else {})}
    reasons = []
    for pattern, description in patterns.items():
        if match := re.search(pattern, text):
            reasons.append(f":{text.count(chr(10), 0, match.start()) + 1}: {description}")
    return reasons


if __name__ == "__main__":
    main()

"""`srlm push RUN --to OWNER/NAME`: a model with its card, and the data that models made, to the hub.

Nothing goes up before everything was looked at: weights are safetensors, and files of other kinds stay behind by name;
keys, tokens, and places on this machine in any file stop the upload. `--dry-run` shows all of this and asks the hub
nothing. The token is the hub library's own affair (HF_TOKEN, or `hf auth login`): no option holds it, none is shown.

Seeds may be other people's, with terms that forbid to pass them on: they go up with `--seeds` alone.
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

from srlm import __version__
from srlm.errors import PushError
from srlm.io.progress import say
from srlm.pipeline.run_reader import finished_iterations, finished_output, model_name, model_stage, open_run
from srlm.pipeline.workspace import CARD, Workspace
from srlm.reporting.dataset_card import data_card, data_files
from srlm.reporting.model_card import model_card
from srlm.run import user_errors

# What an ordinary checkpoint is made of; "*.model" is SentencePiece.
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth", "*.gguf")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)

_SECRETS = {
    r"\bhf_[A-Za-z0-9]{30,}": "a hub token",
    r"\bsk-[\w-]{20,}|\bAIza[\w-]{35}|\bxox[abprs]-[\w-]{10,}|\bAKIA[0-9A-Z]{16}\b": "an API key",
    r"\bgh[opsur]_[A-Za-z0-9]{36}|\bgithub_pat_\w{40,}|\bglpat-[\w-]{20}": "a token of a code server",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----": "a private key",
}
_LOCAL_PATH = (
    r"(?<![\w.:/-])(?:/(?:home|Users|root|mnt|media|srv|scratch|tmp|data|work)/|~/|[A-Za-z]:\\+Users\\+)[\w.-]+"
)
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")
_SHORTEST_SECRET = 12  # characters of an environment variable's value; shorter ones stand in ordinary text


@dataclass(frozen=True)
class Upload:
    """What goes to one repository of the hub."""

    place: str  # OWNER/NAME
    kind: str  # "model" or "dataset"
    title: str  # of the commit
    files: Mapping[str, Path | bytes]  # path in the repository -> a file, or the content
    left_behind: Mapping[str, str] = field(default_factory=dict)  # file -> why


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="srlm push", description="A model with its card to the hub.")
    options.add_argument("run", metavar="RUN", help="a run's folder, such as runs/default")
    options.add_argument("--to", required=True, metavar="OWNER/NAME", help="the repository, made if need be")
    options.add_argument("--model", type=int, metavar="t", help="which M_t, from 1 (default: the last measured one)")
    options.add_argument(
        "--data", action="store_true", help="also prompts, candidates, judgements and pairs, as a data set OWNER/NAME"
    )
    options.add_argument("--seeds", action="store_true", help="with --data: the seeds, too; may their terms allow it")
    options.add_argument("--private", action="store_true", help="refuse to upload to what others can read")
    options.add_argument("--dry-run", action="store_true", help="show and check everything, upload nothing")
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
            say("\nA dry run: nothing was uploaded.")
        else:
            for place in push(uploads, given.private):
                say(f"Uploaded  {place}")


def plan(workspace: Workspace, place: str, t: int | None, data: bool, seeds: bool) -> list[Upload]:
    """What would go up, and what stays behind.

    Parameters
    ----------
    place : str
        OWNER/NAME, of the model and of the data set.
    t : int or None
        The model, from 1; None = the last that is measured.

    Raises
    ------
    PushError
        If the place is no hub id, the run has no such model, or there is no generated data.
    RunFolderError
        If the model or its records are not finished, or were changed since.
    """
    if not _HUB_ID.fullmatch(place):
        raise PushError(f"--to {place} is no repository of the hub. Give OWNER/NAME.")
    if seeds and not data:
        raise PushError("--seeds uploads seeds with the data that models made: give --data, too.")
    measured = [u for u in finished_iterations(workspace, "evaluation") if u >= 1]
    if not measured or (t is not None and t not in measured):
        which = ", ".join(f"M{u}" for u in measured) or "none"
        wanted = "a model" if t is None else f"M{t}"
        raise PushError(
            f"{workspace.root} has not made and measured {wanted}; it has: {which} (M0 is the base model, not the "
            "run's)."
        )
    t = measured[-1] if t is None else t
    config, title = workspace.config(), f"{model_name(workspace, t)}, srlm {__version__}"
    folder = finished_output(workspace, t, model_stage(workspace, t), "model")
    files: dict[str, Path | bytes] = {CARD: model_card(workspace, config, t, place).encode()}
    left: dict[str, str] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / CARD):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not any(fnmatch.fnmatch(path.name, kind) for kind in _MODEL_FILES):
            left[name] = "a link" if path.is_symlink() else "not a kind of file that a checkpoint needs"
        else:
            files[name] = path
    uploads = [Upload(place, "model", title, files, left)]
    if data:
        if t < 2:
            raise PushError("M1 comes from seeds alone: there is no data that a model made. Leave out --data.")
        records, kinds = data_files(workspace, t, seeds)
        card = data_card(workspace, config, t, kinds, place, seeds).encode()
        uploads.append(Upload(place, "dataset", title, {CARD: card, **records}))
    return uploads


def refuse(workspace: Workspace, uploads: Sequence[Upload]) -> None:
    """Look at every file that is to go up.

    Raises
    ------
    PushError
        Naming each file with a pickle, a secret or a place on this machine in it; never the secret itself.
    """
    found = [
        f"  {upload.kind} {name}{problem}"
        for upload in uploads
        for name, source in upload.files.items()
        for problem in problems(name, source, _own(workspace))
    ]
    if found:
        raise PushError(
            "Nothing is uploaded, because of:\n"
            + "\n".join(found)
            + "\nMend the cause (an option, a seed, a file of the base model) and run again; or, where it is a model's "
            "text, leave out --data."
        )


def problems(name: str, source: Path | bytes, own: Mapping[str, str]) -> list[str]:
    """What speaks against uploading a file: ":LINE: why", or ": why".

    Parameters
    ----------
    name : str
        Its path in the repository.
    own : mapping
        Further patterns that must not be in it -> what they are.
    """
    if name.endswith(".safetensors"):
        assert isinstance(source, Path)
        header = _safetensors_header(source)
        return [": no safetensors file, whatever its name"] if header is None else _in_text(header, own, True)
    content = source if isinstance(source, bytes) else source.read_bytes()
    if content[:4] == b"PK\x03\x04" or (content[:1] == b"\x80" and content[1:2] <= b"\x05"):
        return [": a pickle, which can run code when it is loaded"]
    if name.endswith(".model"):
        return _in_text(content.decode("utf-8", errors="replace"), own, False)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return [": not UTF-8 text"]
    # In a vocabulary and in models' texts any path may stand; in the rest none has a reason to.
    return _in_text(text, own, not name.endswith(".jsonl") and name not in ("tokenizer.json", "vocab.json"))


def push(uploads: Sequence[Upload], private: bool) -> list[str]:
    """Upload what `refuse` let pass, each repository in one commit; returns their addresses.

    Raises
    ------
    PushError
        If nobody is logged in, the hub refuses, a repository that is to be private is not, or it holds weights that
        would stand beside the new ones.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever library it speaks through

    token = get_token()
    if not token:
        raise PushError("There is no hub token: set HF_TOKEN, or log in with `hf auth login`.")
    api, done = HfApi(), []
    try:
        places = [_ready(api, upload, private) for upload in uploads]
        for upload, place in zip(uploads, places, strict=True):
            operations = [
                CommitOperationAdd(path_in_repo=name, path_or_fileobj=one if isinstance(one, bytes) else str(one))
                for name, one in upload.files.items()
            ]
            api.create_commit(upload.place, operations, repo_type=upload.kind, commit_message=upload.title)
            done.append(place)
    except (HTTPError, OSError) as error:  # refused, or no connection
        told = str(error).replace(token, "(the token)")
        raise PushError(
            f"The hub did not take it ({type(error).__name__}: {told}). Uploaded before: "
            f"{', '.join(done) or 'nothing'}. The same command goes on."
        ) from error
    return done


def _ready(api: Any, upload: Upload, private: bool) -> str:
    """Make the repository if need be, and look whether it can take the files; returns its address."""
    where = {"repo_id": upload.place, "repo_type": upload.kind}
    address = api.create_repo(**where, private=True if private else None, exist_ok=True)
    if private and not api.repo_info(**where).private:
        raise PushError(f"The {upload.kind} {upload.place} is there already, and public. Make it private first.")
    there = set(api.list_repo_files(**where)) - set(upload.files)
    if stale := sorted(name for name in there if any(fnmatch.fnmatch(name, kind) for kind in _WEIGHTS)):
        raise PushError(
            f"The {upload.kind} {upload.place} holds other weights already ({', '.join(stale)}), which would be loaded "
            "in place of these or beside them. Delete them there, or take another --to."
        )
    return str(address)


def _show(upload: Upload, private: bool) -> None:
    say(f"\n{upload.kind} {upload.place}{' (private)' if private else ''}: {upload.title}")
    sizes = {name: len(s) if isinstance(s, bytes) else s.stat().st_size for name, s in upload.files.items()}
    for name, size in sizes.items():
        say(f"  {decimal(size):>10}  {name}")
    say(f"  {decimal(sum(sizes.values())):>10}  in all")
    for name, why in upload.left_behind.items():
        say(f"  stays behind: {name} ({why})")


def _own(workspace: Workspace) -> dict[str, str]:
    """Patterns of the secrets and places that this machine knows, and what they are."""
    from huggingface_hub import get_token

    secrets = {
        value: f"the value of the environment's {name}"
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name.upper()) and len(value) >= _SHORTEST_SECRET
    }
    if token := get_token():
        secrets[token] = "the hub token"
    places = {Path.home(), workspace.root, Path(workspace.run().get("base_model", "/")).parent}
    inner = sorted(f"{place}/" for place in places if len(place.parts) > 1)
    return {re.escape(value): what for value, what in secrets.items()} | {
        rf"(?<![\w/.-]){re.escape(place)}": "a place on this machine" for place in inner
    }


def _in_text(text: str, own: Mapping[str, str], no_paths: bool) -> list[str]:
    patterns = {**_SECRETS, **own, **({_LOCAL_PATH: "a local path"} if no_paths else {})}
    found = []
    for pattern, what in patterns.items():
        if match := re.search(pattern, text):
            found.append(f":{text.count(chr(10), 0, match.start()) + 1}: {what}")
    return found


def _safetensors_header(path: Path) -> str | None:
    """The header's JSON text; None where the file has none."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= path.stat().st_size - 8:
            return None
        try:
            text = file.read(length).decode("utf-8")
            json.loads(text)
        except ValueError:
            return None
    return text


if __name__ == "__main__":
    main()

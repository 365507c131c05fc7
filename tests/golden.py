"""Record the results of whole runs and compare two recordings, to check that refactoring keeps results.

    python -m tests.golden record FILE [RUN ...]        results of all runs, or of those named, as FILE (.json.xz);
                                                        --scripted: of all scripted runs
    python -m tests.golden compare OLD NEW [RENAMES]    prints every difference; exit code 1 if there is one

Scripted runs need no model and give the same results on every machine: tests/golden.json.xz holds them, and a test
compares. Smoke runs train and generate with a two-layer model; record both sides on the same machine, because other
processors round differently.

RENAMES is a JSON file {"files": {OLD: NEW}, "keys": {OLD: NEW}, "values": {OLD: NEW}}: names of files (regular
expressions), keys in records and counts, and string values, whose names in OLD differ from those in NEW.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.forked import run_job

ROOT = Path(__file__).resolve().parents[1]
PAIRWISE = {"judge.scorer": "pairwise"}
SCRIPTED: dict[str, dict[str, Any]] = {
    "scripted_additive": {},
    "scripted_three_iterations": {"iteration": 3, "evaluation.opponents": "all"},
    "scripted_early_stopping": {"judge.early_stopping": True, "judge.early_stopping_risk": 0.1},
    "scripted_pairwise": PAIRWISE | {"judge.max_comparisons": 4},
    "scripted_meta": {"judge.meta": True, "judge.max_comparisons": 2},
    "scripted_ifeval": {"evaluation.ifeval": "tests/verifiable_prompts.jsonl"},
    "scripted_truncated_kept": {"pairs.truncated": "keep", "pairs.min_gap": 0.5, "pairs.length_penalty": 0.1},
    "scripted_matched_lengths": {"pairs.length_penalty": None},
    "scripted_fixed_models": {"judge.model": "base", "prompts.model": "sft"},
}
_SMALL = ("engine=transformers", "engine.dtype=float32", "engine.threads=1", "prompts.count=3", "evaluation.prompts=2")
_FLOAT32 = ("sft.dtype=float32", "dpo.dtype=float32", "reward_model.dtype=float32", "data.eft_limit=48")
_JUDGES = sorted(path.stem for path in (ROOT / "conf/judge").glob("*.yaml"))
SMOKE: dict[str, tuple[str, ...]] = {
    "smoke": ("engine=vllm", "engine.threads=1"),
    **{f"smoke_{judge}": (*_SMALL, *_FLOAT32, f"judge={judge}") for judge in _JUDGES},
}
RUNS = (*SCRIPTED, *SMOKE)
TOLERANCE = {True: 1e-7, False: 1e-5}  # relative tolerance of numbers: scripted runs, runs with a model
RECORDED = ROOT / "tests/golden.json.xz"  # the scripted runs
# Times, hashes, versions and places differ from run to run.
_IGNORED = {"seconds", "finished", "inputs", "outputs", "libraries", "version", "tokens_per_second", "step_time"}
_IGNORED |= {"train_runtime", "train_samples_per_second", "train_steps_per_second", "read", "runs_dir", "run_folder"}


def recorded_files(root: Path) -> Iterator[Path]:
    """Yield the files of a run that contain results: records, training logs, measures, and manifests."""
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root).parts
        folders = {"model", "sft_baseline", "reward_model", "checkpoints", "logs", "tracking"} & set(inside[:-1])
        if path.is_file() and not folders and path.suffix in (".jsonl", ".json") and path.name != "run.json":
            yield path


def read_results(root: Path) -> dict[str, Any]:
    """Return {file: content} of a run's results, without values that differ from run to run."""
    found: dict[str, Any] = {}
    for path in recorded_files(root):
        text = path.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.split("\n") if line] if path.suffix == ".jsonl" else json.loads(text)
        found[str(path.relative_to(root))] = _without_ignored(rows, str(root))
    return found


def _without_ignored(value: Any, root: str) -> Any:
    if isinstance(value, dict):
        return {key: _without_ignored(inner, root) for key, inner in value.items() if key not in _IGNORED}
    if isinstance(value, list):
        return [_without_ignored(inner, root) for inner in value]
    if isinstance(value, str):
        return value.replace(root, "RUN").replace(str(ROOT), "PROJECT")
    return value


def make_run(name: str, runs: Path) -> Path:
    """Make the run `name` of RUNS in a separate process; return its folder."""
    if name in SCRIPTED:
        ended = run_job(runs / name, options=SCRIPTED[name])
        if ended.returncode:
            raise SystemExit(f"{name} failed:\n{ended.stderr[-4000:]}")
        return runs / name
    command = [sys.executable, "-m", "srlm.run", "experiment=smoke", f"name={name}", f"runs_dir={runs}", *SMOKE[name]]
    ended = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    if ended.returncode and "NoPairsError" not in ended.stderr:  # a two-layer model's scores may be equal or missing
        raise SystemExit(f"{name} failed:\n{ended.stderr[-4000:]}")
    return runs / name


def record(file: Path, names: Collection[str]) -> None:
    """Make runs and write {name of the run: its results} to `file`."""
    found = {}
    for number, name in enumerate(names, 1):
        with tempfile.TemporaryDirectory() as runs:
            found[name] = read_results(make_run(name, Path(runs)))
        print(f"{number} of {len(names)}: {name}, {len(found[name])} files", flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, ensure_ascii=False, sort_keys=True)
    file.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def load(file: Path) -> dict[str, Any]:
    """Return what `record` wrote."""
    return json.loads(lzma.decompress(file.read_bytes()))


def renamed(results: Mapping[str, Any], renames: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return the results of an older version under the names of the newer one."""
    keys, values = renames.get("keys", {}), renames.get("values", {})

    def new(value: Any) -> Any:
        if isinstance(value, dict):
            return {keys.get(key, key): new(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [new(inner) for inner in value]
        return values.get(value, value) if isinstance(value, str) else value

    def file(name: str) -> str:
        for old, now in renames.get("files", {}).items():
            name = re.sub(old, now, name)
        return name

    return {file(name): new(content) for name, content in results.items()}


def differences(old: Any, new: Any, tolerance: float, where: str = "") -> Iterator[str]:
    """Yield a line for every difference; numbers may differ by `tolerance`, relative, or in the ninth decimal."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            place = f"{where} / {key}" if where else key
            if key not in old or key not in new:
                yield f"{place}: only in the {'old' if key in old else 'new'} recording"
            else:
                yield from differences(old[key], new[key], tolerance, place)
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{where}: {len(old)} entries, now {len(new)}"
        for place, (before, now) in enumerate(zip(old, new, strict=False)):
            yield from differences(before, now, tolerance, f"{where}[{place}]")
    elif isinstance(old, float) or isinstance(new, float):
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (old, new))
        if not numbers or not (math.isclose(old, new, rel_tol=tolerance, abs_tol=1e-9) or (old != old and new != new)):
            yield f"{where}: {old!r}, now {new!r}"
    elif old != new:
        yield f"{where}: {old!r}, now {new!r}"


def compare(old: Path, new: Path, renames: Mapping[str, Mapping[str, str]]) -> bool:
    """Print every difference between the runs that two recordings have in common; return whether they are equal."""
    before, now = load(old), load(new)
    equal = True
    for name in sorted(before.keys() & now.keys()):
        found = list(differences(renamed(before[name], renames), now[name], TOLERANCE[name in SCRIPTED]))
        equal &= not found
        print(f"{name}: {f'{len(found)} differences' if found else 'equal'}")
        for line in found[:40]:
            print(f"  {line[:400]}")
    return equal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("file", type=Path)
    recording.add_argument("--scripted", action="store_true", help="the scripted runs")
    recording.add_argument("runs", nargs="*", metavar="RUN", help=f"of {', '.join(RUNS)}")
    comparing = commands.add_parser("compare")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    comparing.add_argument("renames", type=Path, nargs="?")
    given = parser.parse_args()
    if given.command == "record":
        record(given.file, given.runs or (SCRIPTED if given.scripted else RUNS))
        return 0
    renames = json.loads(given.renames.read_text()) if given.renames else {}
    return 0 if compare(given.old, given.new, renames) else 1


if __name__ == "__main__":
    sys.exit(main())

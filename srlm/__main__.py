"""`srlm COMMAND ...`, also as `python -m srlm COMMAND ...`."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from srlm.cli.commands import BY_NAME


def main(words: Sequence[str] | None = None) -> int | None:
    """Run a subcommand; return its exit code, 2 where there is no such command."""
    given = list(sys.argv[1:] if words is None else words)
    name = given[0] if given else "--help"
    if name in ("--help", "-h", "help"):
        from srlm.cli.help import overview

        _print(overview())
        return 0 if given else 2
    if name == "--version":
        from srlm import __version__

        print(__version__)
        return 0
    if name == "--complete":
        from srlm.cli.completion import complete

        _print("\n".join(complete(given[1] if len(given) > 1 else "srlm ")))
        return 0
    if name == "completion":
        from srlm.cli.completion import SCRIPTS

        if len(given) != 2 or given[1] not in SCRIPTS:
            print(f"usage: srlm completion {'|'.join(SCRIPTS)}", file=sys.stderr)
            return 2
        _print(SCRIPTS[given[1]].removesuffix("\n"))
        return 0
    command = BY_NAME.get(name) or BY_NAME.get(name.replace("_", "-"))
    if command is None:
        near = difflib.get_close_matches(name, BY_NAME, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        print(f"There is no command {name}.{hint} All commands: srlm --help", file=sys.stderr)
        return 2
    if command.config and {"--help", "-h"} & set(given[1:]):
        from srlm.cli.help import command_help

        _print(command_help(command))
        return 0
    sys.argv = [f"srlm {command.name}", *given[1:]]
    code: int | None = importlib.import_module(command.module).main()
    return code


def _print(text: str) -> None:
    """Print a text; a reader that closes the pipe early, such as `head`, is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout once more at its end


if __name__ == "__main__":
    sys.exit(main())

"""Shell completion of subcommands, groups with their choices, and options: `srlm completion bash|zsh|fish`."""

from __future__ import annotations

from collections.abc import Sequence

from srlm import config
from srlm.cli.commands import BY_NAME, COMMANDS
from srlm.cli.help import groups
from srlm.cli.overrides import option_names

SCRIPTS = {
    "bash": """_srlm() {
    COMPREPLY=()
    local line="${COMP_LINE:0:COMP_POINT}"
    mapfile -t COMPREPLY < <(srlm --complete "$line")
    # Bash breaks words at "=": only what stands behind the last one is replaced.
    local word="${line##* }"
    if [[ "$word" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}")
    fi
    [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *= ]] && compopt -o nospace
}
complete -o default -F _srlm srlm
""",
    "zsh": """#compdef srlm
_srlm() {
    local -a found
    found=("${(@f)$(srlm --complete "${LBUFFER}")}")
    [[ -n "$found" ]] && compadd -S '' -- $found || _files
}
compdef _srlm srlm
""",
    "fish": """complete -c srlm -f -a '(srlm --complete (commandline -cp))'
""",
}


def complete(line: str) -> list[str]:
    """Return what the last word of a command line can become.

    Parameters
    ----------
    line : str
        The line up to the cursor, beginning with "srlm".
    """
    words = line.split(" ")
    before, last = [word for word in words[1:-1] if word], words[-1]
    if not before:
        return _beginning(last, [*(command.name for command in COMMANDS), "completion"])
    if before[0] == "completion":
        return _beginning(last, SCRIPTS)
    command = BY_NAME.get(before[0])
    if command is None or command.config is None:
        return []
    choices = groups()
    group, equals, _ = last.partition("=")
    if equals:
        return _beginning(last, [f"{group}={choice}" for choice in choices.get(group, [])])
    names = option_names(getattr(config, command.config[1]))
    parents = {name.rpartition(".")[0] for name in names}
    values = [f"{name}=" for name in names if name not in parents]
    return _beginning(last, sorted({*values, *(f"{name}=" for name in choices)}))


def _beginning(start: str, words: Sequence[str] | dict[str, str]) -> list[str]:
    return [word for word in words if word.startswith(start)]

"""``hdvl completion SHELL``: prints the completion script of bash, zsh or fish."""

import glob
import os
import sys
from collections.abc import Iterator, Sequence

from hdvl.catalogue import Primary, choices, groups, inherited, primary, settable
from hdvl.command import exit_with_message
from hdvl.overrides import OPTIONS, PATHS

USAGE = """\
Print a script that completes commands, groups, choices, keys and files after the Tab key.

  eval "$(hdvl completion bash)"          in ~/.bashrc
  eval "$(hdvl completion zsh)"           in ~/.zshrc, after compinit
  hdvl completion fish | source           in ~/.config/fish/config.fish"""

SCRIPTS = {
    "bash": """\
_hdvl() {
    local line="${COMP_LINE:0:COMP_POINT}" word i
    local -a words
    read -ra words <<< "$line"
    [[ "$line" == *" " ]] && words+=("")
    local current="${words[${#words[@]}-1]}"
    local IFS=$'\\n'
    COMPREPLY=($(hdvl completion candidates "${words[@]:1}" 2>/dev/null))
    for i in "${!COMPREPLY[@]}"; do
        word="${COMPREPLY[$i]}"
        [[ "$word" == *[=./] ]] || word="$word "
        # Readline replaces only what stands behind the last = of the word.
        [[ "$current" == *=* && "$COMP_WORDBREAKS" == *=* ]] && word="${word#"${current%"${current##*=}"}"}"
        COMPREPLY[$i]="$word"
    done
}
complete -o nospace -F _hdvl hdvl
""",
    "zsh": """\
_hdvl() {
    local -a found
    found=("${(@f)$(hdvl completion candidates "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    compadd -S '' -- ${(M)found:#*[=./]}
    compadd -- ${${found:#*[=./]}:#}
}
compdef _hdvl hdvl
""",
    "fish": """\
complete -c hdvl -f -a '(hdvl completion candidates (commandline -opc)[2..] (commandline -ct))'
""",
}
BARE_PATHS = ("compare",)
"""Commands that take paths as arguments without a key."""


def candidates(words: Sequence[str], commands: Sequence[str]) -> list[str]:
    """Return the completions of the last of ``words``.

    Args:
        words: the arguments of ``hdvl``; the last one may be incomplete.
        commands: names of the commands, which have one or two words.
    """
    *before, last = words or [""]
    name = next(
        (command for command in commands if command.split() == before[: len(command.split())]), None
    )
    if name is None:
        rest = [
            command.split()[len(before) :]
            for command in commands
            if command.split()[: len(before)] == before
        ]
        return _beginning((words[0] for words in rest if words), last)
    given = before[len(name.split()) :]
    if name == "list":
        return _beginning(groups(), last)
    if name == "completion":
        return _beginning(SCRIPTS, last) if not given else []
    if last.startswith("-"):
        return _beginning((option for option in OPTIONS if option.startswith("--")), last)
    if name == "show":
        found = {group: None for group in groups()}
        return _beginning(_choices(last) if "=" in last else (f"{group}=" for group in found), last)
    own = primary(name.replace(" ", "_"))
    if "=" in last:
        return _values(last, own)
    keys = _beginning(_keys(last, given, own), last)
    return keys + (_paths(last) if name in BARE_PATHS else [])


def _keys(last: str, given: Sequence[str], own: Primary) -> Iterator[str]:
    """Return groups and keys; the keys of a mapping or a part only after its name and a dot were typed."""
    chosen = {**own.groups, **dict(word.partition("=")[::2] for word in given if "=" in word)}
    part, dot, _ = last.lstrip("+~").partition(".")
    plus = last[: len(last) - len(last.lstrip("+~"))]
    keys = [entry.key for entry in settable(own.entries)]
    if not dot:
        yield from (f"{plus}{group}=" for group in own.groups)
        tops = [key.partition(".")[::2] for key in keys]
        yield from (f"{plus}{top}." if rest else f"{plus}{top}=" for top, rest in tops)
        yield from (
            f"{plus}{group}." for group, choice in chosen.items() if choice and group == part
        )
        return
    if part in own.groups and chosen[part] in choices(part):
        keys += [entry.key for entry in settable(inherited(part, str(chosen[part])))]
    yield from (f"{plus}{key}=" for key in keys)


def _values(last: str, own: Primary) -> list[str]:
    key, _, value = last.partition("=")
    name = key.lstrip("+")
    if name in own.groups:
        return _beginning(_choices(last), last)
    if name.rpartition(".")[2] in PATHS:
        return [f"{key}={path}" for path in _paths(value)]
    values = {entry.key: entry.value for entry in own.entries}
    if values.get(name) in ("true", "false"):
        return _beginning((f"{key}=true", f"{key}=false"), last)
    return []


def _choices(last: str) -> Iterator[str]:
    key, _, _ = last.partition("=")
    yield from (f"{key}={choice}" for choice in choices(key.lstrip("+")))


def _paths(beginning: str) -> list[str]:
    found = sorted(glob.glob(f"{glob.escape(beginning)}*"))
    return [f"{path}/" if os.path.isdir(path) else path for path in found]


def _beginning(found: Iterator[str] | Sequence[str] | dict[str, str], last: str) -> list[str]:
    return [word for word in dict.fromkeys(found) if word.startswith(last)]


def main() -> None:
    """Run the command."""
    shell, *words = sys.argv[1:] or [""]
    if shell in ("-h", "--help"):
        print(USAGE)
    elif shell == "candidates":
        from hdvl.cli import COMMANDS

        print("\n".join(candidates(words, list(COMMANDS))))
    else:
        with exit_with_message("completion"):
            if shell not in SCRIPTS:
                raise ValueError(
                    f"a shell must be given, one of {', '.join(SCRIPTS)}, got {shell!r}"
                )
        print(SCRIPTS[shell], end="")


if __name__ == "__main__":
    main()

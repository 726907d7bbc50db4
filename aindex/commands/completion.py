"""`aindex completion`: commands and options completed by the shell."""

from contextlib import redirect_stdout, suppress
from io import StringIO
from typing import Literal

from aindex.cli import COMMANDS
from aindex.commands.functions import FunctionCommand
from aindex.commands.index import ACTIONS
from aindex.commands.parsing import LIST_OPTIONS

Shell = Literal["bash", "zsh"]

_SCRIPT = """# Completion of aindex; made by: aindex completion --shell {shell}
{start}_aindex() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" command="${{COMP_WORDS[1]}}" choices=""
    [ "$command" = index ] && [ "$COMP_CWORD" -gt 2 ] && command="index ${{COMP_WORDS[2]}}"
    if [ "$COMP_CWORD" -eq 1 ]; then
        choices="{commands}"
    elif [ "$command" = index ]; then
        choices="{actions}"
    elif [ "${{word#-}}" != "$word" ]; then
        case "$command" in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
}}
complete -o default -F _aindex aindex
"""


def completion(shell: Shell = "bash") -> None:
    """Print a script that completes commands and options.

    Args:
        shell: bash: put the output where its completions lie; zsh: source it in .zshrc.
    """
    names = [*(name for name in COMMANDS if name != "index"), *(f"index {action}" for action in ACTIONS)]
    cases = [f'            "{name}") choices="{" ".join(_options(name))}" ;;' for name in names]
    print(
        _SCRIPT.format(
            shell=shell,
            start="autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "",
            commands=" ".join(COMMANDS),
            actions=" ".join(ACTIONS),
            cases="\n".join(cases),
        ),
        end="",
    )


def _options(name: str) -> list[str]:
    """The options of a command, as it lists them itself."""
    first, _, action = name.partition(" ")
    with redirect_stdout(StringIO()) as printed, suppress(SystemExit):
        COMMANDS[first].run([*([action] if action else []), LIST_OPTIONS])
    return printed.getvalue().split()


main = FunctionCommand(
    name="completion",
    function=completion,
    example="--shell bash > ~/.local/share/bash-completion/completions/aindex",
)

"""Argument parsers whose errors are one line and name what is allowed."""

import difflib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]

from aindex.commands.config_files import resolve_config_arguments
from aindex.shipped import shipped_configs

CONFIG_HELP = (
    "YAML file with options; what stands later on the command line overrules it. A file that comes with aindex is "
    "found by its name, for example configs/demo.yaml."
)


class OneLineErrors(ArgumentParser):
    """A parser that answers a wrong option or value with one line: the fault, and what is allowed.

    Attributes:
        short_names: by option, the names of the classes that it takes.
    """

    short_names: Mapping[str, Sequence[str]] = {}

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line, exit with code 2."""
        line = " ".join(message.split())
        print(
            f"aindex: error: {_shortened(line)}{self._allowed(line)}; see {self.prog} --help", file=sys.stderr
        )
        raise SystemExit(2)

    def _allowed(self, message: str) -> str:
        """What could have been meant: options of the same group, shipped configurations, short names."""
        if "config" in message and "does not exist" in message:
            return f"; files that come with aindex: {', '.join(shipped_configs())}"
        for key, names in self.short_names.items():
            if f'Parser key "{key}"' in message and "Multiple subclasses" not in message:
                return f": expected one of {', '.join(names)}, with its arguments"
        if re.search(r"arguments are required: .*\bindex\b", message):
            return (
                "; make an index of your pictures with aindex index build --output DIR --like shipped --references "
                "PICTURES"
            )
        unknown = re.search(r"unrecognized arguments: --?([\w.]+)|Option '([\w.]+)' is not accepted", message)
        if unknown is None:
            return ""
        name = unknown.group(1) or unknown.group(2)
        options = [dest for dest in self.option_names() if dest != "help"]
        group, dot, _ = name.rpartition(".")
        siblings = [option for option in options if option.rpartition(".")[0] == group]
        if dot and not siblings:
            siblings = sorted(
                {option.split(".")[0] + ".*" if "." in option else option for option in options}
            )
        close = difflib.get_close_matches(name, options, n=1)
        hint = f" (did you mean --{close[0]}?)" if close else ""
        return f"{hint}: expected one of {', '.join('--' + option for option in siblings)}"

    def option_names(self) -> list[str]:
        """The long options, without dashes."""
        return [
            string.removeprefix("--")
            for action in self._actions
            for string in action.option_strings
            if string.startswith("--")
        ]


def _shortened(line: str) -> str:
    """jsonargparse's account of a wrong value without the ways in which it tried to read it."""
    line = (line.partition(" Errors: ")[2] and re.sub(r":.* Errors: ", ": ", line)) or line
    line = re.sub(r"- Expected a path but .*? either not accessible or invalid ?", "", line)
    line = re.sub(r"(?:- )?Expected a <class 'NoneType'>", "", line)
    line = re.sub(r"(- )?Expected a dot import path string: (\S+)", r"\2 is not known", line)
    line = re.sub(r"(?:- )?Expected a typing\.Literal\[(.*?)\]", r"expected one of \1", line)
    line = re.sub(r"(?:- )?Expected a <class '(\w+)'>", r"expected \1", line)
    line = re.sub(r"\.? (?:Given value type: .*? Given|Got) value: (.*)", r", got \1", line)
    line = re.sub(r"\s+(?=[,;:])", "", line)
    return re.sub(r'^Parser key "([^"]+)":', r"\1:", line)


def run_function(
    function: Callable[..., Any],
    args: list[str],
    *,
    prog: str,
    description: str | None = None,
    positional: tuple[str, str] | None = None,
) -> Any:
    """Call a typed function with options made from its signature and docstring.

    Args:
        function: keyword parameters with annotations; their docstring entries become the help texts.
        args: the command line.
        prog: how the command is called.
        description: what `--help` says first; default: the docstring's first line.
        positional: name and help of the parameter that takes what stands without an option, one or more.
    """
    summary = (function.__doc__ or "").strip().split("\n")[0]
    parser = OneLineErrors(prog=prog, description=description or summary, allow_abbrev=False)
    parser.add_argument("-c", "--config", action=ActionConfigFile, help=CONFIG_HELP)
    if positional is not None:
        parser.add_argument(positional[0], nargs="+", help=positional[1])
    parser.add_function_arguments(
        function, as_positional=False, skip=None if positional is None else {positional[0]}
    )
    options = parser.instantiate(parser.parse_args(resolve_config_arguments(args)))
    return function(**{name: value for name, value in options.items() if name != "config"})

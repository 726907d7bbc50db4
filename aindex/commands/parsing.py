"""Argument parsers whose errors are one line and name what is allowed."""

import difflib
import inspect
import logging
import re
import sys
from argparse import HelpFormatter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]

from aindex.commands.config_files import resolve_config_arguments
from aindex.errors import ConfigError
from aindex.shipped import shipped_configs

CONFIG_HELP = (
    "YAML file with options; what stands later on the command line overrules it. A file that comes with aindex is "
    "found by its name, for example configs/demo.yaml."
)


LIST_OPTIONS = "--list_options"
"""What the completion script's maker asks of every command."""


class Needs(NamedTuple):
    """What an option has no effect without.

    Attributes:
        option: another one.
        values: those of it that it works with; none: it must be given.
    """

    option: str
    values: tuple[Any, ...] = ()


class OneLineErrors(ArgumentParser):
    """A parser that answers a wrong option or value with one line: the fault, and what is allowed.

    Attributes:
        short_names: by option, the names of the classes that it takes.
        examples: command lines that its help ends with.
        full_help: the option that lists every other one.
    """

    short_names: Mapping[str, Sequence[str]] = {}
    examples: Sequence[str] = ()
    full_help = "--help"

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """All options, and examples."""
        text = super().format_help(formatter)
        if not self.examples:
            return text
        title = "example:" if len(self.examples) == 1 else "examples:"
        return "\n".join([text.rstrip("\n"), "", title, *(f"  {line}" for line in self.examples), ""])

    def answer(self, args: Sequence[str]) -> None:
        """Print what is asked about the options instead of doing something: their names alone, for completion.

        Raises:
            SystemExit: 0, where something is asked.
        """
        if list(args) == [LIST_OPTIONS]:
            print("\n".join(f"--{name}" for name in self.option_names()))
            raise SystemExit(0)

    def sort_groups(self, titles: Mapping[str, str]) -> None:
        """Give the groups of options titles for people, and their order.

        Args:
            titles: by what stands before the last dot of a group's options.
        """
        order = list(titles)
        for group in self._action_groups:
            group.title = titles.get(_group_of(group), group.title)
        groups: list[Any] = self._action_groups  # type: ignore[assignment]
        groups.sort(
            key=lambda group: order.index(name) if (name := _group_of(group)) in order else len(order)
        )

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line, exit with code 2."""
        line = " ".join(message.split())
        print(
            f"aindex: error: {_shortened(line)}{self._allowed(line)}; see {self.prog} {self.full_help}",
            file=sys.stderr,
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


def _group_of(group: Any) -> str:
    """What stands before the last dot of a group's options."""
    names = [
        action.dest for action in group._group_actions if "." in action.dest or action.dest == "output_dir"
    ]
    linked = str(group.title).startswith("Linked")
    return "?" if linked or not names else str(names[-1].rpartition(".")[0])


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


def quieten_lightning() -> None:
    """Leave out Lightning's own notes: seeds, devices it looked for, tips."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def run_function(
    function: Callable[..., Any],
    args: list[str],
    *,
    prog: str,
    example: str,
    description: str | None = None,
    positional: tuple[str, str] | None = None,
    needs: Mapping[str, Needs] | None = None,
) -> Any:
    """Call a typed function with options made from its signature and docstring.

    Args:
        function: keyword parameters with annotations; their docstring entries become the help texts.
        args: the command line.
        prog: how the command is called.
        example: a command line that the help ends with.
        description: what `--help` says first; default: the docstring's first line.
        positional: name and help of the parameter that takes what stands without an option, one or more.
        needs: options that have no effect without others; they are refused where those are missing.

    Raises:
        ConfigError: an option would have no effect.
    """
    summary = (function.__doc__ or "").strip().split("\n")[0]
    usage = [prog, *([] if positional is None else [positional[0].upper(), "[…]"])]
    parameters = inspect.signature(function).parameters.values()
    required = [one.name for one in parameters if one.default is one.empty]
    usage += [f"--{name} {name.upper()}" for name in required if positional is None or name != positional[0]]
    parser = OneLineErrors(
        prog=prog,
        usage=" ".join([*usage, "[options]"]),
        description=description or summary,
        allow_abbrev=False,
    )
    parser.examples = [example]
    if positional is not None:
        parser.add_argument(positional[0], nargs="+", help=positional[1])
    parser.add_function_arguments(
        function, as_positional=False, skip=None if positional is None else {positional[0]}
    )
    parser.add_argument("-c", "--config", action=ActionConfigFile, help=CONFIG_HELP)
    for group in parser._action_groups:
        group.title = {summary.rstrip("."): "what it does", "options": "how it is called"}.get(
            str(group.title), group.title
        )
    groups: list[Any] = parser._action_groups  # type: ignore[assignment]
    groups.sort(key=lambda group: str(group.title) == "how it is called")
    parser.answer(args)
    options = parser.instantiate(parser.parse_args(resolve_config_arguments(args)))
    given = {name: value for name, value in options.items() if name != "config"}
    _refuse_idle(function, given, needs or {})
    return function(**given)


def _refuse_idle(function: Callable[..., Any], given: Mapping[str, Any], needs: Mapping[str, Needs]) -> None:
    for name, need in needs.items():
        if given[name] == inspect.signature(function).parameters[name].default:
            continue
        other = given[need.option]
        if other in need.values if need.values else other is not None:
            continue
        allowed = " or ".join(f"{need.option} {_spelled(value)}" for value in need.values) or need.option
        raise ConfigError(
            f"{name} {_spelled(given[name])} has no effect with {need.option} {_spelled(other)}: leave {name} out, or "
            f"give {allowed}"
        )


def _spelled(value: Any) -> str:
    """A value as it stands on a command line."""
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)

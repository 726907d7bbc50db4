"""The parser of every command: errors of one line that name what is allowed, and configurations by their names.

All that leans on the inside of jsonargparse stands here. Its errors reach a parser as English text alone, which regular
expressions shorten; `_actions` and `_action_groups`, argparse's, are the only list of the options that classes of
Lightning brought along.
"""

import re
from argparse import Action, HelpFormatter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace  # type: ignore[attr-defined]

from aindex.cli import did_you_mean, fail
from aindex.commands.config_files import resolve_config_arguments
from aindex.shipped import shipped_configs

_CONFIG_HELP = (
    "YAML file with options; what stands later on the command line overrules it. A file that comes with aindex is "
    "found by its name, for example configs/demo.yaml."
)

LIST_OPTIONS = "--list_options"
"""What the completion script's maker asks of every command."""


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

    def parse_args(self, args: Sequence[str]) -> Namespace:  # type: ignore[override]
        """Answer what is asked about the options, find configurations by their names, parse.

        Raises:
            ConfigError: a configuration has a key twice, or is no YAML.
            SystemExit: 0 where something was asked, 2 where the command line is not understood.
        """
        self.answer(args)
        return super().parse_args(resolve_config_arguments(args))

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        """All options, and examples."""
        text = super().format_help(formatter)
        if not self.examples:
            return text
        title = "example:" if len(self.examples) == 1 else "examples:"
        return "\n".join([text.rstrip("\n"), "", title, *(f"  {line}" for line in self.examples), ""])

    def answer(self, args: Sequence[str]) -> None:
        """Print what is asked about the options instead of doing something: their names alone, for completion."""
        if list(args) == [LIST_OPTIONS]:
            print("\n".join(f"--{name}" for name in self.option_names()))
            raise SystemExit(0)

    def add_config(self) -> None:
        """Take configurations."""
        self.add_argument("-c", "--config", action=ActionConfigFile, help=_CONFIG_HELP)

    def usual_options_last(self, title: str) -> None:
        """List the options that every command has behind the others, under a title for people."""
        self._optionals.title = title
        self._sort(lambda group: int(group is self._optionals))

    def sort_groups(self, titles: Mapping[str, str]) -> None:
        """Give groups titles for people, by what stands before the last dot of their options, and their order."""
        order = list(titles)
        for group in self._action_groups:
            group.title = titles.get(_group_of(group), group.title)
        self._sort(lambda group: order.index(name) if (name := _group_of(group)) in order else len(order))

    def _sort(self, key: Callable[[Any], int]) -> None:
        groups: list[Any] = self._action_groups  # type: ignore[assignment]
        groups.sort(key=key)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line, exit with code 2."""
        line = " ".join(message.split())
        fail(f"{_shortened(line)}{self._allowed(line)}; see {self.prog} {self.full_help}", code=2)

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
        hint = did_you_mean(f"--{name}", [f"--{option}" for option in options])
        return f"{hint}: expected one of {', '.join('--' + option for option in siblings)}"

    def actions(self) -> dict[str, Action]:
        """The options, by where their values go."""
        return {action.dest: action for action in self._actions}

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

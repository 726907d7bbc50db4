"""Commands that are functions: their options are the function's parameters, their help is its docstring."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import docstring_parser

from aindex.collection.equipment import describing
from aindex.commands.parsing import OneLineErrors
from aindex.errors import ConfigError


class Needs(NamedTuple):
    """What an option has no effect without: another one, with one of these values; none: it must be given."""

    option: str
    values: tuple[Any, ...] = ()


class Option(NamedTuple):
    """A parameter as an option; `default` is `inspect.Parameter.empty` where it must be given."""

    type: Any
    default: Any
    help: str


@dataclass(frozen=True, kw_only=True)
class FunctionCommand:
    """A command that calls a function and tells people what came of it.

    The function's parameters are the options. What may be an object or a path is a path here, and `settings` stands for
    the parameters of `describing`. Parameters of `tell` that the function has not are options too.

    Attributes:
        name: what is written after `aindex`.
        function: does the work; its docstring is the help.
        tell: called with the result and, by name, the options that it asks for.
        example: what is written after the name, for the end of the help.
        positional: the parameter that takes what stands without an option, one or more.
        defaults: of options, where they are not the function's.
        read: by option, what makes of the written value the one that the function takes.
        needs: options that have no effect without others; they are refused where those are missing.
    """

    name: str
    function: Callable[..., Any]
    example: str
    tell: Callable[..., None] = lambda result: None
    positional: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    read: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    needs: Mapping[str, Needs] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (self.function.__doc__ or "").partition("\n")[0]

    def __call__(self, args: Sequence[str]) -> None:
        """Parse, refuse options that would have no effect, call, tell."""
        given = self.parsed(args)
        self._refuse_idle(given)
        given |= {name: read(given[name]) for name, read in self.read.items()}
        if "settings" in inspect.signature(self.function).parameters:
            given["settings"] = describing(**_chosen(describing, given))
        self.tell(self.function(**_chosen(self.function, given)), **_chosen(self.tell, given))

    def options(self) -> dict[str, Option]:
        """All options by name, in the order of the help."""
        options: dict[str, Option] = {}
        for name, option in _parameters(self.function).items():
            options |= _parameters(describing) if name == "settings" else {name: option}
        _, *more = _parameters(self.tell).items()
        options |= {name: option for name, option in more if name not in options}
        return {
            name: option._replace(default=self.defaults.get(name, option.default))
            for name, option in options.items()
        }

    def parsed(self, args: Sequence[str]) -> dict[str, Any]:
        """The options' values; of a wrong command line and of `--help` the process ends."""
        options, prog = self.options(), f"aindex {self.name}"
        usage = [] if self.positional is None else [self.positional.upper(), "[…]"]
        for name, option in options.items():
            if option.default is inspect.Parameter.empty and name != self.positional:
                usage.append(f"--{name} {name.upper()}")
        parser = OneLineErrors(
            prog=prog,
            usage=" ".join([prog, *usage, "[options]"]),
            description=self.summary,
            allow_abbrev=False,
        )
        parser.examples = [f"{prog} {self.example}"]
        own = parser.add_argument_group("what it does")
        for name, (kind, default, text) in options.items():
            if name == self.positional:
                parser.add_argument(name, nargs="+", type=str, help=text)
            elif default is inspect.Parameter.empty:
                own.add_argument(f"--{name}", type=kind, required=True, help=text)
            else:
                own.add_argument(f"--{name}", type=kind, default=default, help=text)
        parser.add_config()
        parser.usual_options_last("how it is called")
        found = parser.parse_args(args)
        return {name: found[name] for name in options}

    def _refuse_idle(self, given: Mapping[str, Any]) -> None:
        options = self.options()
        for name, need in self.needs.items():
            if given[name] == options[name].default:
                continue
            other = given[need.option]
            if other in need.values if need.values else other is not None:
                continue
            allowed = " or ".join(f"{need.option} {_spelled(value)}" for value in need.values) or need.option
            raise ConfigError(
                f"{name} {_spelled(given[name])} has no effect with {need.option} {_spelled(other)}: leave {name} out, "
                f"or give {allowed}"
            )


def _parameters(function: Callable[..., Any]) -> dict[str, Option]:
    """A function's parameters, with the texts of its docstring."""
    hints = get_type_hints(function)
    texts = {one.arg_name: one.description for one in docstring_parser.parse(function.__doc__ or "").params}
    return {
        name: Option(_written(hints.get(name)), one.default, (texts.get(name) or "").replace("%", "%%"))
        for name, one in inspect.signature(function).parameters.items()
    }


def _written(hint: Any) -> Any:
    """The type of what is written for a parameter: of paths, or objects that paths stand for, a text."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if not {str, Path} & {*kinds}:
        return hint
    return str | None if NoneType in kinds else str


def _chosen(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in inspect.signature(function).parameters if name in given}


def _spelled(value: Any) -> str:
    """A value as it stands on a command line."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)

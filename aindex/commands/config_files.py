"""Configuration files of a command line: found by their names, and no key given twice."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]

from aindex.errors import ConfigError
from aindex.nested import flat
from aindex.shipped import resolve_config

_OPTIONS = ("-c", "--config")


class _UniqueKeys(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a mapping that has a key twice, of which other readers keep the last one and say nothing."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise ConfigError(
                    f"{self.name!r} has the key {key.value!r} twice, in lines {lines[key.value]} and {line}: leave "
                    "one out"
                )
            lines[key.value] = line
        return node


def resolve_config_arguments(args: Sequence[str]) -> list[str]:
    """A command line in which every ``--config`` names a file that exists, if there is one.

    A warning says which values of an earlier file a later one replaces.

    Raises:
        ConfigError: a file has a key twice, or is no YAML.
    """
    resolved, files = list(args), []
    for place, option, value in _given(args):
        if option in _OPTIONS:
            files.append(resolve_config(value))
            resolved[place] = resolved[place].removesuffix(value) + files[-1]
    settings: dict[str, tuple[Any, str]] = {}
    replaced = []
    for path in files:
        for key, value in _settings(path):
            before, where = settings.get(key, (value, path))
            if before != value:
                replaced.append(f"{key} {before} of {where!r} by {value} of {path!r}")
            settings[key] = value, path
    if replaced:
        warnings.warn(f"a later configuration replaces {'; '.join(replaced)}", stacklevel=2)
    return resolved


def _settings(path: str) -> list[tuple[str, Any]]:
    """The values of a file under dotted names; nothing where it is left to the parser to say what is wrong."""
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.load(file, _UniqueKeys)
        return list(flat(content)) if isinstance(content, dict) else []
    except OSError:
        return []
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).replace(path, "").split())[:200]
        raise ConfigError(
            f"configuration {path!r} is no YAML that can be read: {reason}; mend it, or leave it out"
        ) from error


def as_written(args: Sequence[str]) -> dict[str, Any]:
    """What a command line and its configuration files say, by dotted names, before any of it is converted."""
    written: dict[str, Any] = {}
    for _, option, value in _given(args):
        written |= dict(
            _settings(resolve_config(value)) if option in _OPTIONS else [(option.removeprefix("--"), value)]
        )
    return written


def _given(args: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """The options of a command line, with their values and where these stand."""
    for place, argument in enumerate(args):
        option, equals, value = argument.partition("=")
        if equals and option.startswith("-"):
            yield place, option, value
        elif option.startswith("-") and place + 1 < len(args):
            yield place + 1, option, args[place + 1]

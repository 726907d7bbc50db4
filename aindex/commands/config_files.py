"""Configuration files of a command line: found by their names, and no key given twice."""

from pathlib import Path

import yaml  # type: ignore[import-untyped]

from aindex.errors import ConfigError
from aindex.shipped import resolve_config


def resolve_config_arguments(args: list[str]) -> list[str]:
    """A command line in which every ``--config`` names a file that exists, if there is one.

    Raises:
        ConfigError: a file has a key twice.
    """
    resolved: list[str] = []
    for argument in args:
        option, equals, value = argument.partition("=")
        if resolved and resolved[-1] in ("--config", "-c"):
            resolved.append(resolve_config(argument))
            require_unique_keys(resolved[-1])
        elif equals and option in ("--config", "-c"):
            path = resolve_config(value)
            require_unique_keys(path)
            resolved.append(f"{option}={path}")
        else:
            resolved.append(argument)
    return resolved


def require_unique_keys(path: str) -> None:
    """Raise if a mapping of a YAML file has a key twice, of which readers keep the last one and say nothing.

    A file that cannot be read is left to the parser.

    Raises:
        ConfigError: a key stands twice, or the text is no YAML.
    """
    try:
        with open(path, encoding="utf-8") as file:
            root = yaml.compose(file, Loader=yaml.SafeLoader)
    except OSError:
        return
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).replace(path, "").split())[:200]
        raise ConfigError(f"configuration {path!r} is no YAML: {reason}; mend it, or leave it out") from error
    waiting = [root]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            _check(node, Path(path))
            waiting += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _check(node: yaml.MappingNode, path: Path) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        line = key.start_mark.line + 1
        if key.value in lines:
            raise ConfigError(
                f"{str(path)!r} has the key {key.value!r} twice, in lines {lines[key.value]} and {line}: leave one out"
            )
        lines[key.value] = line

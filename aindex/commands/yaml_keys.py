"""Configuration files in which a key stands twice: YAML's readers keep the last one and say nothing."""

from pathlib import Path

import yaml  # type: ignore[import-untyped]

from aindex.errors import ConfigError


def require_unique_keys(path: str) -> None:
    """Raise if a mapping of a YAML file has a key twice; a file that cannot be read is left to the parser.

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

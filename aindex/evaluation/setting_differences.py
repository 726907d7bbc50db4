"""How the settings of compared runs differ, and warnings about runs that cannot be compared."""

from collections.abc import Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

from aindex.evaluation.retrieval import attack_labels
from aindex.evaluation.run_files import Run
from aindex.evaluation.table import Table
from aindex.nested import flat

# where a run works and what it writes beside its numbers
_NO_SETTINGS = ("output_dir", "overwrite", "config", "report", "trainer.default_root_dir", "trainer.logger")


def flat_settings(config: str) -> dict[str, Any]:
    """The options of a run's `config.yaml`, dotted names; nothing where it cannot be read."""
    try:
        tree = yaml.safe_load(config)
    except yaml.YAMLError:
        return {}
    return {
        key: value
        for key, value in flat(tree if isinstance(tree, dict) else {})
        if not any(key == name or key.startswith(f"{name}.") for name in _NO_SETTINGS)
    }


def differing_settings(runs: Mapping[str, Run]) -> Table | None:
    """A row per option in which runs differ, a column per run; None where there is none."""
    known = {label: flat_settings(run.config) for label, run in runs.items()}
    keys = dict.fromkeys(key for settings in known.values() for key in settings)
    rows = []
    for key in keys:
        texts = [str(settings[key]) if key in settings else "–" for settings in known.values()]
        if len(set(texts)) > 1:
            rows.append([key, *texts])
    header = ["setting", *known]
    return Table(header, rows, "config.yaml", "Settings that differ") if rows else None


def warnings_of(runs: Mapping[str, Run]) -> list[str]:
    """A line for each run that was evaluated on other pictures or edits than the first."""
    named = all(run.results.images is not None for run in runs.values())
    kinds = {
        "pictures": {label: _pictures(run, named) for label, run in runs.items()},
        "attacks": {label: frozenset(attack_labels(run.results.retrieval)) for label, run in runs.items()},
    }
    found = []
    for what, sets in kinds.items():
        first, *others = sets
        for label in others:
            if sets[label] != sets[first]:
                shared = len(sets[label] & sets[first])
                found.append(
                    f"{label} was evaluated on other {what} than {first} ({len(sets[label])} and {len(sets[first])}, "
                    f"{shared} in common): their numbers say nothing about each other"
                )
    return found


def _pictures(run: Run, named: bool) -> frozenset[str]:
    """The names of the evaluated pictures, or their ids where not all runs have noted names."""
    images = run.results.images
    names = (
        {} if images is None or not named else dict(zip(images["image_index"], images["name"], strict=True))
    )
    return frozenset(str(names.get(i, i)) for i in run.results.retrieval["image_index"].unique())

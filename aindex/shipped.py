"""Configuration files that come with the package, found by the name they have in the repository."""

from pathlib import Path

import aindex


def config_folders() -> list[Path]:
    """Where shipped configurations may lie: inside an installed package, beside it in a checkout."""
    package = Path(aindex.__file__).resolve().parent
    return [folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()]


def shipped_configs() -> list[str]:
    """The names of the shipped configurations."""
    return sorted({path.name for folder in config_folders() for path in folder.glob("*.yaml")})


def resolve_config(name: str) -> str:
    """The path itself if it exists, else the shipped file of that name (``configs/x.yaml`` or ``x.yaml``)."""
    path = Path(name)
    if path.exists() or path.parent.name not in ("", "configs"):
        return name
    candidates = (folder / path.name for folder in config_folders())
    return next((str(candidate) for candidate in candidates if candidate.is_file()), name)

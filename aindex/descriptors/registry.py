"""Extractors by name or path: shipped, fetched, torchvision's, timm's, TorchScript files, aindex exports."""

import difflib
import hashlib
import os
import re
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from aindex.data.images import one_line
from aindex.descriptors.extractor import Extractor, hash_state
from aindex.descriptors.fetch import fetch, hash_file
from aindex.descriptors.preprocess import IMAGENET_MEAN, IMAGENET_STD
from aindex.errors import ExtractorError

DEFAULT_EXTRACTOR = "aindex_small"
TORCHSCRIPT_INPUT_SIZE = 288
WEIGHTS_DIR = Path(__file__).parent / "weights"
_HOST = "https://dl.fbaipublicfiles.com"
FETCHED = {
    "sscd_disc_mixup": f"{_HOST}/sscd-copy-detection/sscd_disc_mixup.torchscript.pt",
    "sscd_disc_advanced": f"{_HOST}/sscd-copy-detection/sscd_disc_advanced.torchscript.pt",
    "sscd_disc_large": f"{_HOST}/sscd-copy-detection/sscd_disc_large.torchscript.pt",
    "dino_r50": f"{_HOST}/active_indexing/dino_r50.torchscript.pt",
    "dino_vits": f"{_HOST}/active_indexing/dino_vits16.torchscript.pt",
    "isc_dt1": f"{_HOST}/active_indexing/isc1.torchscript.pt",
}


_Built = tuple[nn.Module, int, tuple[float, ...], tuple[float, ...]]
"""A module, its input size, and the mean and deviation that it was trained with."""


def load_extractor(
    name_or_path: str | Path = DEFAULT_EXTRACTOR,
    *,
    resize_size: int | None = None,
    sha256: str | None = None,
    device: torch.device | str = "cpu",
    pretrained: bool = True,
) -> Extractor:
    """An extractor, frozen, on its device.

    Args:
        name_or_path: ``aindex_small``; a name in ``FETCHED``; ``torchvision/<model>`` or ``timm/<model>``
            (the head is removed); the path of a TorchScript file or of an aindex export (``.safetensors``).
        resize_size: R, pixels; default the extractor's own input size, 288 for TorchScript files.
        sha256: the hex digest the file must have; for names in ``FETCHED`` and for paths.
        device: where its weights go.
        pretrained: False gives torchvision and timm models with random weights, which is of use in tests.

    Raises:
        ExtractorError: unknown name, no network, wrong checksum, no such kind of file, a size it cannot take.
    """
    if resize_size is not None and resize_size < 1:
        raise ExtractorError(
            f"resize_size {resize_size}: expected pixels, 1 or more; leave it out for the extractor's own"
        )
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ExtractorError(
            f"sha256 {sha256!r}: expected 64 hexadecimal digits; leave it out to trust the file"
        )
    name = str(name_or_path)
    library = name.partition("/")[0]
    if library in ("torchvision", "timm"):
        if sha256 is not None:
            raise ExtractorError(
                f"sha256 is given for {name!r}: {library} checks its own files, leave it out"
            )
        extractor = _from_library(name, resize_size, pretrained)
    elif name in FETCHED:
        path = fetch(FETCHED[name], sha256=sha256)
        extractor = _from_torchscript(path, name, resize_size or TORCHSCRIPT_INPUT_SIZE, device)
    else:
        extractor = _from_file(name, resize_size, sha256, device)
    return extractor.to(device)


def may_be_named_by_others(name: str) -> bool:
    """Whether an extractor that a stranger's index folder names may be loaded.

    Registered names and `.safetensors` files, which hold numbers only, may; a TorchScript file is a program.
    """
    library = name.partition("/")[0]
    return (
        name == DEFAULT_EXTRACTOR
        or name in FETCHED
        or library in ("torchvision", "timm")
        or name.endswith(".safetensors")
    )


def extractor_names() -> list[str]:
    """The names that ``load_extractor`` takes, the patterns of the two libraries among them."""
    return [DEFAULT_EXTRACTOR, *FETCHED, "torchvision/<model>", "timm/<model>"]


def _from_file(
    name: str, resize_size: int | None, sha256: str | None, device: torch.device | str
) -> Extractor:
    path = WEIGHTS_DIR / f"{name}.safetensors" if name == DEFAULT_EXTRACTOR else Path(name)
    if not os.path.isfile(path):
        close = difflib.get_close_matches(name, extractor_names(), n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ExtractorError(
            f"extractor {name!r} is neither a known name nor a file{hint}: expected one of "
            f"{', '.join(extractor_names())}, or the path of a TorchScript file or an aindex export"
        )
    if sha256 is not None and (found := hash_file(path)) != sha256.lower():
        raise ExtractorError(f"extractor {name!r} has SHA-256 {found}, expected {sha256}")
    if path.suffix == ".safetensors":
        from aindex.descriptors.small import load_small

        module = load_small(path)
        return Extractor(module, name=name, input_size=resize_size or module.config.input_size)
    return _from_torchscript(path, name, resize_size or TORCHSCRIPT_INPUT_SIZE, device)


def _from_torchscript(path: Path, name: str, input_size: int, device: torch.device | str) -> Extractor:
    weights_hash = hash_file(path)
    try:
        with warnings.catch_warnings():
            # torch announces the end of TorchScript at every load; there is nothing that users could change.
            warnings.filterwarnings("ignore", r".*torch\.jit", Warning)
            module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise ExtractorError(
            f"{str(path)!r} is not a TorchScript file ({one_line(error)[:120]}): give one written by "
            "torch.jit.save, or an aindex export (.safetensors)"
        ) from error
    return Extractor(module, name=name, input_size=input_size, weights_hash=weights_hash)


def _from_library(name: str, resize_size: int | None, pretrained: bool) -> Extractor:
    library, _, model = name.partition("/")
    build = _build_torchvision if library == "torchvision" else _build_timm
    try:
        module, input_size, mean, std = build(model, resize_size, pretrained)
    except ExtractorError:
        raise
    # The libraries fetch weights in several ways, each with its own exceptions.
    except Exception as error:
        raise ExtractorError(
            f"extractor {name!r} cannot be made: {one_line(error)[:300]}; if the network is absent, fill the "
            "library's cache where there is one, or give a TorchScript file's path"
        ) from error
    if (mean, std) != (IMAGENET_MEAN, IMAGENET_STD):
        module = _Renormalised(module, mean, std)
    weights_hash = hashlib.sha256(f"{name.partition('.')[0]} {hash_state(module)}".encode()).hexdigest()
    return Extractor(module, name=name, input_size=resize_size or input_size, weights_hash=weights_hash)


def _build_torchvision(model: str, resize_size: int | None, pretrained: bool) -> _Built:
    from torchvision import models

    if model not in (known := models.list_models(module=models)):
        raise _unknown_model(f"torchvision/{model}", [f"torchvision/{m}" for m in known])
    weights = models.get_model_weights(model).DEFAULT
    module = models.get_model(model, weights=weights if pretrained else None)
    preset = weights.transforms()
    heads = [path for path, part in module.named_modules() if isinstance(part, nn.Linear)]
    if not heads:
        raise ExtractorError(
            f"torchvision model {model!r} has no linear head to remove: choose another model"
        )
    module.set_submodule(heads[-1], nn.Identity())
    return module, preset.crop_size[0], tuple(preset.mean), tuple(preset.std)


def _build_timm(model: str, resize_size: int | None, pretrained: bool) -> _Built:
    import timm
    from timm.data.config import resolve_model_data_config

    if not timm.is_model(model):
        raise _unknown_model(f"timm/{model}", [f"timm/{m}" for m in timm.list_models()])
    module = timm.create_model(model, pretrained=pretrained, num_classes=0)
    data = resolve_model_data_config(module)  # type: ignore[no-untyped-call]
    set_input_size = getattr(module, "set_input_size", None)
    if resize_size is not None and set_input_size is not None:
        set_input_size(img_size=(resize_size, resize_size))
    return module, int(data["input_size"][-1]), tuple(data["mean"]), tuple(data["std"])


def _unknown_model(name: str, known: list[str]) -> ExtractorError:
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"; close to it: {', '.join(close)}" if close else ""
    return ExtractorError(f"extractor {name!r} is not one of the {len(known)} models of its library{hint}")


class _Renormalised(nn.Module):
    """A module that was trained with another mean and deviation than ImageNet's, fed with ImageNet's."""

    scale: Tensor
    shift: Tensor

    def __init__(self, module: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.module = module
        own_mean, own_std = torch.tensor(mean), torch.tensor(std)
        self.register_buffer("scale", (torch.tensor(IMAGENET_STD) / own_std)[:, None, None])
        self.register_buffer("shift", ((torch.tensor(IMAGENET_MEAN) - own_mean) / own_std)[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        descriptors: Tensor = self.module(pixels * self.scale + self.shift)
        return descriptors

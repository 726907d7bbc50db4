"""Descriptor matrices in files: .pth, .pt, .npy, .safetensors, mapped into memory rather than read."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from aindex.data.atomic import replace_when_done
from aindex.data.images import one_line
from aindex.errors import DescriptorError

DESCRIPTOR_EXTENSIONS = (".pth", ".pt", ".npy", ".safetensors")
_CHECK_ROWS = 65_536

Matrix = npt.NDArray[np.float32]


def read_descriptors(path: Path, *, dim: int | None = None) -> Matrix:
    """A descriptor file as a float32 matrix n×d, C-contiguous.

    float32 files stay on the disk, mapped into memory; other floating types are converted, in memory. Nothing
    is ever unpickled but plain tensors.

    Args:
        dim: d that is expected; None accepts any.

    Raises:
        DescriptorError: no such file, other content, not n×d floats, no rows, NaN or infinite values.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise DescriptorError(f"descriptor file {str(path)!r} does not exist: give one made by extract")
    readers = {".npy": _read_npy, ".safetensors": _read_safetensors, ".pth": _read_torch, ".pt": _read_torch}
    if path.suffix not in readers:
        raise DescriptorError(
            f"{str(path)!r} is no descriptor file: expected a name that ends in "
            f"{', '.join(DESCRIPTOR_EXTENSIONS)}"
        )
    try:
        array = readers[path.suffix](path)
    except DescriptorError:
        raise
    except pickle.UnpicklingError as error:
        raise DescriptorError(
            f"{str(path)!r} holds pickled objects, which are never loaded: expected one tensor n×d, as "
            "extract writes it"
        ) from error
    # Truncated and foreign files fail in each reader's own ways.
    except Exception as error:
        raise DescriptorError(
            f"{str(path)!r} cannot be read as a descriptor matrix ({one_line(error)[:160]}): expected one "
            f"floating-point array n×d in a whole {path.suffix} file without pickled objects; make it again"
        ) from error
    return check_descriptors(array, where=str(path), dim=dim)


def check_descriptors(array: npt.NDArray[Any], *, where: str, dim: int | None = None) -> Matrix:
    """The array as float32, C-contiguous, if it is a finite floating-point matrix n×d.

    Args:
        where: what the errors call the array.
        dim: d that is expected; None accepts any.

    Raises:
        DescriptorError: it is not.
    """
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise DescriptorError(
            f"{where} holds {array.dtype} of shape {array.shape}: expected a floating-point matrix n×d"
        )
    if 0 in array.shape:
        raise DescriptorError(f"{where} holds no descriptor (shape {array.shape}): expected at least one row")
    if dim is not None and array.shape[1] != dim:
        raise DescriptorError(
            f"{where} holds descriptors of dimension {array.shape[1]}, expected {dim}: extract them with the "
            "extractor in use, or use the extractor that made them"
        )
    for start in range(0, len(array), _CHECK_ROWS):
        finite = np.isfinite(array[start : start + _CHECK_ROWS]).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise DescriptorError(f"{where} has NaN or infinite values in row {row}: extract it again")
    return np.require(array, np.float32, "C")


def write_descriptors(path: Path, descriptors: Matrix) -> None:
    """Write a matrix n×d in the form that the ending names; whole, or not at all.

    Raises:
        DescriptorError: unknown ending.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in DESCRIPTOR_EXTENSIONS:
        raise DescriptorError(
            f"{str(path)!r} ends in {path.suffix!r}: expected {', '.join(DESCRIPTOR_EXTENSIONS)}"
        )
    with replace_when_done(path) as temporary:
        try:
            _write(temporary, descriptors)
        except (RuntimeError, SafetensorError) as error:
            # What torch and safetensors make of an OSError.
            raise OSError(f"the disk may be full ({one_line(error)})") from error


def _write(path: Path, descriptors: Matrix) -> None:
    if path.suffix == ".npy":
        np.save(path, descriptors, allow_pickle=False)
        return
    tensor = torch.from_numpy(np.ascontiguousarray(descriptors))
    if path.suffix == ".safetensors":
        save_file({"descriptors": tensor}, path)
        return
    # Through a file object, because torch.save writes a path's name into the file.
    with open(path, "wb") as file:
        torch.save(tensor, file)


def _read_npy(path: Path) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _read_torch(path: Path) -> npt.NDArray[Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        # The form of before torch 1.6 cannot be mapped.
        if "mmap can only be used" not in str(error):
            raise
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, torch.Tensor) or content.layout != torch.strided:
        raise DescriptorError(f"{str(path)!r} holds a {type(content).__name__}: expected one tensor n×d")
    return _to_numpy(content)


def _read_safetensors(path: Path) -> npt.NDArray[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            if len(keys) != 1 and "descriptors" not in keys:
                raise DescriptorError(
                    f"{str(path)!r} holds the tensors {keys}: expected one, or one named 'descriptors'"
                )
            return _to_numpy(file.get_tensor("descriptors" if "descriptors" in keys else keys[0]))
    except SafetensorError as error:
        raise DescriptorError(
            f"{str(path)!r} is not a whole safetensors file ({one_line(error)}): make it again"
        ) from error


def _to_numpy(tensor: torch.Tensor) -> npt.NDArray[Any]:
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

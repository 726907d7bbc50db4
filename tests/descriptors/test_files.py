import os
import pickle
import resource
import signal

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from aindex.descriptors.files import (
    DESCRIPTOR_EXTENSIONS,
    read_descriptors,
    write_descriptors,
)
from aindex.errors import DescriptorError, OutputError


def matrix(rows=20, dim=8, dtype=np.float32):
    return np.random.default_rng(0).standard_normal((rows, dim)).astype(dtype)


@pytest.mark.parametrize("ending", DESCRIPTOR_EXTENSIONS)
def test_what_is_written_is_read(ending, tmp_path):
    path = tmp_path / "new" / f"a{ending}"
    write_descriptors(path, matrix())
    found = read_descriptors(path, dim=8)
    assert np.array_equal(found, matrix())
    assert (found.dtype, found.flags.c_contiguous) == (np.float32, True)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", DESCRIPTOR_EXTENSIONS)
def test_the_same_matrix_gives_the_same_bytes(ending, tmp_path):
    for name in ("a", "b"):
        write_descriptors(tmp_path / f"{name}{ending}", matrix())
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


@pytest.mark.parametrize("ending", DESCRIPTOR_EXTENSIONS)
def test_files_are_mapped_not_read(ending, tmp_path):
    path = tmp_path / f"a{ending}"
    write_descriptors(path, matrix(1000, 64))
    before = open_mappings(path)
    found = read_descriptors(path)
    assert open_mappings(path) > before
    del found


def open_mappings(path):
    with open("/proc/self/maps") as file:
        return sum(str(path) in line for line in file)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_other_floats_are_converted(dtype, tmp_path):
    np.save(tmp_path / "a.npy", matrix(dtype=dtype))
    found = read_descriptors(tmp_path / "a.npy")
    assert found.dtype == np.float32
    assert found.dtype.isnative
    assert np.abs(found - matrix()).max() < 2e-3


def test_other_layouts_are_read(tmp_path):
    np.save(tmp_path / "fortran.npy", np.asfortranarray(matrix()))
    tensor = torch.from_numpy(matrix())
    torch.save(torch.nn.Parameter(tensor), tmp_path / "parameter.pt")
    torch.save(tensor, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save(tensor.T.contiguous().T, tmp_path / "strided.pth")
    save_file({"embeddings": tensor}, tmp_path / "one.safetensors")
    save_file({"descriptors": tensor, "ids": torch.arange(3)}, tmp_path / "named.safetensors")
    for name in (
        "fortran.npy",
        "parameter.pt",
        "old.pth",
        "strided.pth",
        "one.safetensors",
        "named.safetensors",
    ):
        found = read_descriptors(tmp_path / name)
        assert np.array_equal(found, matrix()), name
        assert found.flags.c_contiguous
    torch.save(tensor.bfloat16(), tmp_path / "bf16.pth")
    assert np.abs(read_descriptors(tmp_path / "bf16.pth") - matrix()).max() < 0.02


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(value, tmp_path):
    damaged = matrix()
    damaged[13, 2] = value
    for ending in DESCRIPTOR_EXTENSIONS:
        write_descriptors(tmp_path / f"a{ending}", damaged)
        with pytest.raises(DescriptorError, match="NaN or infinite values in row 13"):
            read_descriptors(tmp_path / f"a{ending}")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(4, "f4"),
        np.zeros((2, 3, 4), "f4"),
        np.zeros((3, 4), "i4"),
        np.zeros((3, 4), "c8"),
        np.zeros((0, 4), "f4"),
        np.zeros((4, 0), "f4"),
        np.array(1.0),
        np.array([["a"]]),
    ],
)
def test_arrays_that_are_no_float_matrix(array, tmp_path):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DescriptorError, match=r"a\.npy.*expected"):
        read_descriptors(tmp_path / "a.npy")


def test_wrong_dimension(tmp_path):
    write_descriptors(tmp_path / "a.npy", matrix())
    with pytest.raises(DescriptorError, match="dimension 8, expected 16"):
        read_descriptors(tmp_path / "a.npy", dim=16)


class Trap:
    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("form", ["pickle .pth", "torch .pth", "old torch .pt", "object .npy", "pickle .npy"])
def test_foreign_pickles_are_never_unpickled(form, tmp_path):
    Trap.folder = str(tmp_path / "sprung")
    path = tmp_path / f"a{form.split()[-1]}"
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(Trap()))
    elif form == "object .npy":
        np.save(path, np.array([[Trap()]], dtype=object), allow_pickle=True)
    else:
        torch.save(Trap(), path, _use_new_zipfile_serialization=form.startswith("torch"))
    with pytest.raises(DescriptorError, match=r"pickle"):
        read_descriptors(path)
    assert not (tmp_path / "sprung").exists()


def test_files_of_another_kind(tmp_path):
    torch.save({"model": torch.zeros(2, 2)}, tmp_path / "dict.pth")
    torch.save(torch.eye(3).to_sparse(), tmp_path / "sparse.pth")
    save_file({"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)}, tmp_path / "two.safetensors")
    (tmp_path / "a.csv").touch()
    (tmp_path / "folder.npy").mkdir()
    for name in ("dict.pth", "sparse.pth", "two.safetensors", "a.csv", "folder.npy", "absent.npy"):
        with pytest.raises(DescriptorError, match=name):
            read_descriptors(tmp_path / name)
    with pytest.raises(DescriptorError, match=r"a\.csv"):
        write_descriptors(tmp_path / "a.csv", matrix())


@pytest.mark.parametrize("ending", DESCRIPTOR_EXTENSIONS)
def test_truncated(ending, tmp_path):
    path = tmp_path / f"a{ending}"
    write_descriptors(path, matrix(100))
    content = path.read_bytes()
    for size in (0, 5, 40, 200, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(DescriptorError) as caught:
            read_descriptors(path)
        assert "\n" not in str(caught.value)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_fuzzed_files_give_a_matrix_or_an_error(data, tmp_path):
    path = tmp_path / f"a{data.draw(st.sampled_from(['.npy', '.pth', '.safetensors']))}"
    write_descriptors(path, matrix(6, 4))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        found = read_descriptors(path)
    except DescriptorError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert found.ndim == 2
    assert np.isfinite(found).all()


@pytest.mark.parametrize("ending", DESCRIPTOR_EXTENSIONS)
def test_full_disk(ending, tmp_path):
    path = tmp_path / f"a{ending}"
    write_descriptors(path, matrix())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="make room"):
            write_descriptors(path, matrix(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert np.array_equal(read_descriptors(path), matrix())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]

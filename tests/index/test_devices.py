"""The GPU side, with a stand-in for faiss-gpu; the last test needs the real one."""

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import pytest

from aindex.errors import FaissIndexError
from aindex.index import devices
from aindex.index.factory import train_quantiser
from aindex.index.reference_index import ReferenceIndex

Make = Callable[..., ReferenceIndex]


class FakeGpuFaiss:
    """faiss with a GPU that is the CPU, and takes no LSH."""

    def __init__(self) -> None:
        self.copies = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(faiss, name)

    StandardGpuResources = object
    GpuParameterSpace = faiss.ParameterSpace

    def get_num_gpus(self) -> int:
        return 1

    def index_cpu_to_gpu(self, resources: object, number: int, index: Any) -> Any:
        if "LSH" in type(faiss.downcast_index(index)).__name__:
            raise RuntimeError(
                "Error in x at /gpu/GpuCloner.cpp:1: This index type is not implemented on GPU."
            )
        self.copies += 1
        return faiss.clone_index(index)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpuFaiss:
    fake = FakeGpuFaiss()
    monkeypatch.setattr(devices, "import_faiss", lambda: fake)
    return fake


@pytest.mark.parametrize("idx_factory", ["IVF8,PQ4x4", "OPQ4_8,IVF8,PQ4x4", "Flat"])
def test_searches_run_on_the_copy(
    filled_index: Make, query_rows, reference_rows, gpu: FakeGpuFaiss, idx_factory: str
) -> None:
    index = filled_index(idx_factory)
    expected = index.search(query_rows, 10)[1]
    index.use_device("gpu")
    assert np.array_equal(index.search(query_rows, 10)[1], expected)
    index.search(query_rows, 10)
    assert gpu.copies == 1
    index.add(reference_rows[:5], ["x"] * 5)
    assert index.search(reference_rows[:1], 300)[1].max() >= 300
    assert gpu.copies == 2
    index.use_device("cpu")
    index.search(query_rows, 10)
    assert gpu.copies == 2


def test_nprobe_reaches_the_copy(filled_index: Make, query_rows, gpu: FakeGpuFaiss) -> None:
    index = filled_index("OPQ4_8,IVF8,PQ4x4")
    expected = index.search(query_rows, 20, nprobe=8)[1]
    index.use_device("gpu")
    one = index.search(query_rows, 20)[1]
    assert np.array_equal(index.search(query_rows, 20, nprobe=8)[1], expected)
    assert np.array_equal(index.search(query_rows, 20)[1], one)
    assert (one != expected).any()


def test_a_factory_without_gpu_form_says_so(
    filled_index: Make, query_rows, gpu: FakeGpuFaiss, caplog
) -> None:
    index = filled_index("LSH")
    expected = index.search(query_rows, 10)[1]
    index.use_device("gpu")
    assert np.array_equal(index.search(query_rows, 10)[1], expected)
    index.search(query_rows, 10)
    assert [record.message for record in caplog.records] == [
        "this factory does not run on FAISS's GPU side (This index type is not implemented on GPU): the search runs "
        "on the CPU"
    ]


def test_cells_are_trained_there(training_rows, query_rows, gpu: FakeGpuFaiss, caplog) -> None:
    on_gpu = train_quantiser(training_rows, "IVF8,Flat", device="gpu")
    on_cpu = train_quantiser(training_rows, "IVF8,Flat")
    assert gpu.copies == 1
    assert np.array_equal(
        on_gpu.quantizer.search(query_rows, 1)[1], on_cpu.quantizer.search(query_rows, 1)[1]
    )
    train_quantiser(training_rows, "PQ4x4", device="gpu")
    assert "trained on the CPU" in caplog.text


def test_the_gpu_selects_2048_neighbours(
    filled_index: Make, query_rows, gpu: FakeGpuFaiss, monkeypatch
) -> None:
    monkeypatch.setattr(devices, "GPU_MAX_K", 20)
    index = filled_index("Flat")
    index.use_device("gpu")
    assert index.search(query_rows, 20)[1].shape == (30, 20)
    with pytest.raises(FaissIndexError, match="k 21 on a GPU: expected at most 20"):
        index.search(query_rows, 21)


def test_no_such_gpu(filled_index: Make, gpu: FakeGpuFaiss) -> None:
    with pytest.raises(FaissIndexError, match="number 1: FAISS sees 1 GPUs"):
        filled_index().use_device("gpu", 1)


@pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="faiss-gpu is installed")
def test_no_faiss_gpu(filled_index: Make, training_rows) -> None:
    with pytest.raises(FaissIndexError, match=r"no GPU part.*aindex\[gpu\]"):
        filled_index().use_device("gpu")
    with pytest.raises(FaissIndexError, match="device 'cpu'"):
        train_quantiser(training_rows, "IVF8,Flat", device="gpu")


@pytest.mark.gpu
@pytest.mark.skipif(getattr(faiss, "get_num_gpus", int)() == 0, reason="needs faiss-gpu and a GPU")
def test_on_a_real_gpu(filled_index: Make, query_rows) -> None:
    index = filled_index("IVF8,Flat", nprobe=8)
    expected = index.search(query_rows, 5)
    index.use_device("gpu")
    distances, ids = index.search(query_rows, 5)
    np.testing.assert_allclose(distances, expected[0], rtol=1e-3, atol=1e-4)
    assert (ids == expected[1]).mean() > 0.9


def test_what_the_gpu_cannot_probe_is_said(
    filled_index: Make, query_rows, gpu: FakeGpuFaiss, monkeypatch
) -> None:
    index = filled_index("IVF8,PQ4x4", nprobe=4)
    index.use_device("gpu")
    monkeypatch.setattr(devices, "GPU_MAX_K", 3)
    with pytest.raises(FaissIndexError, match="nprobe 4 on a GPU: expected at most 3"):
        index.search(query_rows, 1)


def test_a_failed_search_on_the_gpu_is_one_line(
    filled_index: Make, query_rows, gpu: FakeGpuFaiss, monkeypatch
) -> None:
    class Failing:
        def search(self, *_: object) -> None:
            raise RuntimeError("Error: out of memory")

    index = filled_index("Flat")
    index.use_device("gpu")
    monkeypatch.setattr(devices, "copy_to_gpu", lambda *_: Failing())
    with pytest.raises(
        FaissIndexError, match=r"the search on the GPU failed.*out of memory.*index.device cpu"
    ):
        index.search(query_rows, 1)

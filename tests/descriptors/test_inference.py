import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from aindex.descriptors.extractor import Extractor
from aindex.descriptors.folding import fold_batch_norms, unscripted
from aindex.descriptors.inference import FastExtractor, best_precision, fast_extractor
from aindex.descriptors.small import SmallConfig, SmallExtractor

TINY = SmallConfig(channels=(8, 8, 16, 16), layers=(1, 1, 1, 1), stem_width=8, dim=12, input_size=64)


def with_statistics(module: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
    return module.eval()


def pixels(size: int, count: int = 3) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(5))


def output_and_gradient(extractor: nn.Module | FastExtractor, batch: Tensor) -> tuple[Tensor, Tensor]:
    batch = batch.clone().requires_grad_()
    descriptors = extractor(batch)
    weight = torch.randn(descriptors.shape, generator=torch.Generator().manual_seed(6))
    (gradient,) = torch.autograd.grad((descriptors * weight).sum(), batch)
    return descriptors.detach(), gradient


def small() -> Extractor:
    torch.manual_seed(0)
    return Extractor(with_statistics(SmallExtractor(TINY)), name="small", input_size=64)


def scripted() -> Extractor:
    torch.manual_seed(0)
    module = with_statistics(SmallExtractor(TINY)).trunk
    trunk = nn.Sequential(module, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 12))
    return Extractor(torch.jit.trace(trunk.eval(), pixels(64, 1)), name="script", input_size=64)


@pytest.mark.parametrize("make", [small, scripted])
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_the_fast_form_computes_the_same(make: object) -> None:
    extractor = make()  # type: ignore[operator]
    batch = pixels(64)
    expected, expected_gradient = output_and_gradient(extractor, batch)
    descriptors, gradient = output_and_gradient(fast_extractor(extractor, precision="fp32"), batch)
    torch.testing.assert_close(descriptors, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-5)

    descriptors, gradient = output_and_gradient(fast_extractor(extractor, precision="bf16"), batch)
    assert descriptors.dtype == torch.float32
    assert torch.cosine_similarity(descriptors, expected).min() > 0.999
    assert (
        torch.cosine_similarity(gradient.flatten(1), expected_gradient.flatten(1)).min() > 0.95
    )  # a random network


def test_the_extractor_itself_stays_as_it_was() -> None:
    extractor = small()
    before = {key: value.clone() for key, value in extractor.module.state_dict().items()}
    fast_extractor(extractor, precision="bf16")
    after = extractor.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(value.dtype != torch.bfloat16 for value in after.values())


def test_batch_norms_are_folded_in_any_forward_code() -> None:
    folded = fold_batch_norms(with_statistics(SmallExtractor(TINY)), pixels(64, 1))
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())


def test_a_batch_norm_whose_convolution_has_other_readers_stays() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, batch: Tensor) -> Tensor:
            convolved = self.conv(batch)
            return self.norm(convolved) + convolved

    fork = with_statistics(Fork())
    folded = fold_batch_norms(fork, pixels(8))
    assert isinstance(folded.norm, nn.BatchNorm2d)
    torch.testing.assert_close(folded(pixels(8)), fork(pixels(8)))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, batch: Tensor) -> Tensor:
        convolved = self.conv(batch).mean((2, 3))
        if bool(convolved.sum() > 0):
            convolved = convolved * 2
        return convolved


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_script_that_branches_runs_as_it_is() -> None:
    script = torch.jit.script(Branching().eval())
    assert unscripted(script) is None
    extractor = Extractor(script, name="branching", input_size=16)
    fast = fast_extractor(extractor, precision="fp32")
    torch.testing.assert_close(fast(pixels(16)), extractor(pixels(16)))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_the_shared_script_and_photograph_extractor(tiny_script: Path, photographs: Path) -> None:
    for path, size in ((tiny_script, 32), (photographs / "extractor_dev.torchscript.pt", 160)):
        extractor = Extractor(torch.jit.load(str(path)), name=path.stem, input_size=size)
        fast = fast_extractor(extractor)
        assert fast.dim == extractor.dim
        similarity = torch.cosine_similarity(fast(pixels(size)), extractor(pixels(size)))
        assert similarity.min() > 0.999


def test_precisions() -> None:
    assert best_precision("cpu") in ("fp32", "bf16")
    fast = fast_extractor(small())
    assert fast.precision == best_precision("cpu")
    assert fast_extractor(fast) is fast
    assert (fast.input_size, fast.dim) == (64, 12)


def test_a_module_whose_way_depends_on_values_is_not_folded() -> None:
    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, batch: Tensor) -> Tensor:
            convolved = self.conv(batch)
            return self.norm(convolved) if batch.mean() > -1 else convolved

    module = with_statistics(Choosing())
    folded = fold_batch_norms(module, pixels(8))
    assert isinstance(folded.norm, nn.BatchNorm2d)
    below = pixels(8) - 5
    torch.testing.assert_close(folded(below), module(below))


def test_an_extractor_is_prepared_while_other_threads_use_torch() -> None:
    """Nothing of torch is replaced for the process, in the middle of what other threads do."""
    foreign, failures, stop = nn.Linear(4, 4), [], threading.Event()

    def use_torch() -> None:
        while not stop.is_set():
            try:
                foreign(torch.zeros(1, 4))
            except Exception as error:
                failures.append(error)

    extractors = [small() for _ in range(8)]
    call = nn.Module.__call__
    user = threading.Thread(target=use_torch)
    user.start()
    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(lambda one: fast_extractor(one, precision="fp32")(pixels(64)), extractors))
    stop.set()
    user.join()
    assert failures == []
    assert nn.Module.__call__ is call
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_an_extractor_is_prepared_once() -> None:
    extractor = small()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: fast_extractor(extractor, precision="fp32"), range(16)))
    assert all(one is made[0] for one in made)
    assert fast_extractor(extractor, precision="bf16") is not made[0]

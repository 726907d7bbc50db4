"""Several processes: the strategy under which each treats its own images, who treats what, and the gathers."""

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry
from torch.utils.data import Sampler

from aindex.errors import AindexError, ConfigError
from aindex.watch import Place, Watch

STRATEGY_NAME = "ddp_independent"
# Rank 0 may build an index for hours while the others wait at a gather; a rank that dies is noticed by the watch,
# not by this limit.
_PATIENCE = timedelta(days=2)
_MEETING_VARIABLE = "AINDEX_MEETING_S"
_MEETING_S = 60.0
"""How long ranks wait for each other at the start: before they have met, nobody can tell a slow one from a dead one."""

T = TypeVar("T")


class UsualSignals:
    """What SIGTERM and SIGUSR1 do when this is made: they end a run, which goes on at the next start.

    Lightning would take note of a SIGTERM and work on, between ranks call the others in the middle of another call, and
    on SLURM store a checkpoint, which says nothing here, at a SIGUSR1.
    """

    def __init__(self) -> None:
        self._handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}

    def take_back(self) -> None:
        """Let them do so again; in another thread than the main one Lightning has changed nothing."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._handlers.items():
            if handler is not None:  # one that was not set from Python
                signal.signal(number, handler)


class IndependentDDP(DDPStrategy):
    """Processes that share a process group but no gradient: every rank optimises δ of its own images.

    Lightning's own ``ddp`` refuses a module without trainable parameters, and would average what must differ.
    """

    strategy_name = STRATEGY_NAME

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("timeout", timedelta(seconds=_meeting_s()))
        super().__init__(*args, **kwargs)
        self._watch: Watch | None = None
        self._signals = UsualSignals()

    def configure_ddp(self) -> None:
        """Leave the module unwrapped."""

    def setup_distributed(self) -> None:
        """Make the process group, and watch its ranks from then on."""
        environment = self.cluster_environment
        try:
            super().setup_distributed()
        except (dist.DistError, RuntimeError) as error:
            if dist.is_initialized() or environment is None:
                raise
            raise ConfigError(
                f"rank {environment.global_rank()} of {environment.world_size()} did not meet the others at "
                f"{environment.main_address}:{environment.main_port} ({' '.join(str(error).split())[:160]}): see why "
                f"one of them ended, or whether all are started within {_meeting_s():g} seconds (the environment "
                f"variable {_MEETING_VARIABLE} sets another number); the same command continues"
            ) from error
        if dist.is_initialized():
            _be_patient()
        if world_size() > 1 and environment is not None and self._watch is None:
            self._watch = Watch(
                Place(rank(), world_size(), environment.local_rank(), environment.node_rank()),
                environment.main_address,
                _from_rank_zero,
            )

    def barrier(self, name: str | None = None) -> None:
        """Wait for the other ranks."""
        if name == "run-stage":  # the first thing that Lightning does once it has set its handlers
            self._signals.take_back()
        super().barrier(name)

    def on_exception(self, exception: BaseException) -> None:
        """Tell the other ranks; where they are the reason, end with a line that says so."""
        if self._watch is not None:
            self._watch.failed(exception)
        super().on_exception(exception)

    def teardown(self) -> None:
        """Tell the other ranks that this one is done."""
        if self._watch is not None:
            self._watch.leave()
        super().teardown()


def _be_patient() -> None:
    """Let collective calls wait for a rank that is slow, now that one that ends is noticed."""
    # the public name is younger than the oldest torch that is allowed
    set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    set_timeout(_PATIENCE)
    dist.distributed_c10d._get_default_store().set_timeout(_PATIENCE)


def _meeting_s() -> float:
    """Seconds that ranks wait for each other at the start."""
    text = os.environ.get(_MEETING_VARIABLE, str(_MEETING_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < _PATIENCE.total_seconds():
        raise ConfigError(f"{_MEETING_VARIABLE} {text!r}: expected seconds, such as {_MEETING_S:g}")
    return seconds


def register_strategy() -> None:
    """Make ``--trainer.strategy ddp_independent`` known; safe to call again."""
    if STRATEGY_NAME not in StrategyRegistry:
        StrategyRegistry.register(STRATEGY_NAME, IndependentDDP)


class DealtBatches(Sampler[list[int]]):
    """Whole batches of consecutive positions, dealt to the ranks like cards.

    Every rank gets the same number of batches, empty ones at the end where there are not enough, because
    Lightning hangs where counts differ; and at least one, because it skips the validation of a run without
    training batches. What is in a batch depends neither on the number of ranks nor on what is done already.

    Args:
        count: number of positions.
        batch_size: positions per batch; the last one may hold fewer.
        rank: which share to give.
        world_size: number of shares.
        done: numbers of batches to leave out.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        done: Collection[int] = (),
    ) -> None:
        numbers = [number for number in range(-(-count // batch_size)) if number not in set(done)]
        self._batches = [
            list(range(number * batch_size, min(count, (number + 1) * batch_size)))
            for number in numbers[rank::world_size]
        ]
        self._rounds = max(1, -(-len(numbers) // world_size))

    def __len__(self) -> int:
        return self._rounds

    def __iter__(self) -> Iterator[list[int]]:
        yield from self._batches
        yield from ([] for _ in range(self._rounds - len(self._batches)))


def rank() -> int:
    """This process's number, 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def on_rank_zero(work: Callable[[], T]) -> T:
    """Run on rank 0 and give its result to all; errors as in `everywhere`.

    The work must make no collective call, and its result must pickle.
    """
    result: T = _from_rank_zero(everywhere(lambda: work() if rank() == 0 else None))
    return result


def everywhere(work: Callable[[], T]) -> T:
    """Run on every rank; an error for people on any of them is raised on all, instead of a hang."""
    if world_size() == 1:
        return work()
    result, error = None, None
    try:
        result = work()
    except AindexError as caught:
        error = caught
    for number, other in enumerate(gather(error)):
        if other is not None:
            other.is_told_elsewhere = number != rank()
            raise other
    return result  # type: ignore[return-value]


def gather(value: T) -> list[T]:
    """Every rank's value, in the order of ranks, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def _from_rank_zero(value: Any) -> Any:
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def barrier() -> None:
    """Wait for the other processes."""
    if world_size() > 1:
        dist.barrier()

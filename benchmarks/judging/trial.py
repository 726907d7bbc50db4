"""Rivals prepare pictures, the pictures are edited, rivals identify the copies; on one thread a process, timed."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from rivals.base import Bench, Rival

from aindex.activation.perceptual import psnr_db, ssim
from aindex.data.images import read_image
from aindex.edits.named import Attack, apply_attack
from aindex.seeding import derive_seed

FAILED = -2
"""In place of an answer; −1 says that the picture is a copy of none."""

SLOW_TIMES = 4
"""Of so many strangers a slow reader sees one, and compares it so often, each time with other identifiers."""


@dataclass
class Tried:
    """What one rival made of m pictures under A edits, and of pictures that match nothing.

    Attributes:
        rows: m, those of the pictures.
        answers: m×A rows.
        scores: m×A, larger is surer.
        strange_scores: s, of pictures that match nothing.
        prepare_ms: m, on one core.
        look_up_ms: every identified copy's, on one core.
        psnr_db: m, infinite where nothing changed.
        ssim: m.
        released: m released pictures; None where preparing failed.
        failures: pictures or copies that raised an error.
    """

    rows: list[int]
    answers: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    strange_scores: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    prepare_ms: list[float] = field(default_factory=list)
    look_up_ms: list[float] = field(default_factory=list)
    psnr_db: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    released: list[Image.Image | None] = field(default_factory=list)
    failures: int = 0

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """m×A: whether the answer is right."""
        return self.answers == np.array(self.rows)[:, None]


def edited(picture: Image.Image, name: str, attack: Attack) -> Image.Image:
    """The copy that every rival sees of what it released: the same edit with the same random numbers."""
    return apply_attack(picture, attack, seed=derive_seed(0, name, str(attack)), name=name)


def try_all(
    rivals: Sequence[Rival], bench: Bench, rows: list[int], attacks: list[Attack], *, slow: int, workers: int
) -> Iterator[tuple[Rival, Tried]]:
    """Every rival on the pictures of these rows, slow ones on the first of them."""
    in_order = sorted(rivals, key=lambda rival: rival.released_as or "")
    for _, group in groupby(in_order, key=lambda rival: rival.released_as):
        members = list(group)
        given = rows[:slow] if members[0].slow else rows
        treated = list(in_processes(lambda row, m=members: _treat(m, bench, row, attacks), given, workers))
        for number, rival in enumerate(members):
            yield rival, _collected(given, [one[number] for one in treated])


def _treat(members: list[Rival], bench: Bench, row: int, attacks: list[Attack]) -> list[dict[str, Any]]:
    """What the rivals that release the same picture make of it: an entry for each of them."""
    picture = bench.picture(row)
    entries: list[dict[str, Any]] = [{"failures": 0, "found": []} for _ in members]
    released: Image.Image | None = picture
    for number, (rival, entry) in enumerate(zip(members, entries, strict=True)):
        if number and rival.released_as is not None:
            entry["prepare_ms"] = entries[0]["prepare_ms"]
            continue
        prepared, entry["prepare_ms"], failed = timed(lambda one=rival: one.prepare(picture, row), None)
        entry["failures"] += failed
        released = prepared if prepared is not None and prepared.size == picture.size else None
    copies = [edited(released, bench.names[row], attack) for attack in attacks] if released else []
    for rival, entry in zip(members, entries, strict=True):
        entry["found"] = [
            timed(lambda one=rival, c=copy: one.identify(c), (FAILED, -np.inf)) for copy in copies
        ]
        entry["found"] = entry["found"] or [((FAILED, -np.inf), 0.0, 0)] * len(attacks)
        entry["quality"], entry["released"] = _quality(picture, released), released
    return entries


def timed(call: Callable[[], Any], otherwise: Any) -> tuple[Any, float, int]:
    """A call's result, its milliseconds of processor time, and 1 if it raised an error (the result is then another)."""
    started = time.process_time()
    try:
        result, failed = call(), 0
    except Exception:  # of whatever kind: a rival that fails has not found the picture
        result, failed = otherwise, 1
    return result, 1000 * (time.process_time() - started), failed


def _quality(picture: Image.Image, released: Image.Image | None) -> tuple[float, float]:
    """PSNR in dB and SSIM; not numbers where nothing was released."""
    if released is None:
        return np.nan, np.nan
    before, after = (torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in (picture, released))
    return psnr_db(before, after).item(), ssim(before, after)


def _collected(rows: list[int], entries: list[dict[str, Any]]) -> Tried:
    found = [entry["found"] for entry in entries]
    return Tried(
        rows=list(rows),
        answers=np.array([[result[0] for result, _, _ in line] for line in found], np.int64),
        scores=np.array([[result[1] for result, _, _ in line] for line in found], float),
        prepare_ms=[entry["prepare_ms"] for entry in entries],
        look_up_ms=[ms for line in found for _, ms, _ in line if ms],
        psnr_db=[entry["quality"][0] for entry in entries],
        ssim=[entry["quality"][1] for entry in entries],
        released=[entry["released"] for entry in entries],
        failures=sum(entry["failures"] + sum(failed for *_, failed in entry["found"]) for entry in entries),
    )


def try_strangers(
    tried: Sequence[tuple[Rival, Tried]],
    strangers: list[tuple[str, Any]],
    attacks: list[Attack],
    *,
    workers: int,
) -> None:
    """What the rivals answer for pictures that match nothing, each edited in one of the ways, in turn.

    Args:
        tried: filled in.
        strangers: name and path of each; of each four, slow readers see one.
        attacks: the edits.
        workers: processes.
    """

    readers = list(dict.fromkeys(rival.reader for rival, _ in tried))
    times = {reader: SLOW_TIMES if reader.slow else 1 for reader in readers}

    def treat(number: int) -> list[tuple[list[float], float, int]]:
        name, path = strangers[number]
        # in turn, and shifted each time, so that every fourth stranger has all edits, too
        attack = attacks[(number + number // len(attacks)) % len(attacks)]
        copy = edited(read_image(path), name, attack)
        return [
            timed(lambda one=reader, n=count: one.strange_scores(copy, n), [-np.inf] * count)
            if number % count == 0
            else ([], 0.0, 0)
            for reader, count in times.items()
        ]

    lines = list(in_processes(treat, range(len(strangers)), workers))
    for rival, one in tried:
        results = [line[readers.index(rival.reader)] for line in lines]
        scores = [score for some, _, _ in results for score in some]
        one.strange_scores = np.array(scores[: len(strangers)], float)
        one.failures += sum(failed for *_, failed in results)


def by_either(mark: Tried, index: Tried, sure: float) -> Tried:
    """The mark's answers where it is sure, the index's elsewhere; a mark's score is above all of the index's.

    A slow mark was read from some of the strangers only: that it is sure of one is taken to be independent of how near
    the index finds it.

    Args:
        mark: of a rival that reads the mark of a picture.
        index: of one that looks the same pictures up in the index.
        sure: the mark's score from which it is believed.
    """
    believed = mark.scores >= sure
    return replace(
        index,
        answers=np.where(believed, mark.answers, index.answers),
        scores=np.where(believed, mark.scores, index.scores),
        strange_scores=np.where(mark.strange_scores >= sure, mark.strange_scores, index.strange_scores),
        look_up_ms=[float(np.mean(mark.look_up_ms) + np.mean(index.look_up_ms))],
        failures=mark.failures + index.failures,
    )


_work: Callable[[Any], Any] | None = None


def in_processes(work: Callable[[Any], Any], items: Sequence[Any], workers: int) -> Iterator[Any]:
    """work(item) of each item in order, by processes that are copies of this one."""
    with get_context("fork").Pool(workers, initializer=_adopt, initargs=(work,)) as pool:
        yield from pool.imap(_call, items)


def _adopt(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work


def _call(item: Any) -> Any:
    assert _work is not None
    return _work(item)

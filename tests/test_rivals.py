"""The rivals' bench: identifiers, thresholds, costs, failures; with rivals made here: the real ones are an extra."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))  # as python benchmarks/rivals.py has it

from judging.costs import Rates  # noqa: E402
from judging.page import write_page  # noqa: E402
from judging.scores import averages, losses_between, mean_of_finite, recall_at_rate, threshold  # noqa: E402
from judging.tables import average_table, edit_table  # noqa: E402
from judging.trial import FAILED, Tried, by_either, edited, try_all, try_strangers  # noqa: E402
from rivals import enter, entrants  # noqa: E402
from rivals.base import BITS, Bench, Hash, Mark, Rival, Scan, codewords  # noqa: E402

from aindex.edits.named import Attack  # noqa: E402

COUNT = 12
ATTACKS = [Attack("none"), Attack("hflip"), Attack("brightness", 0.5)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Pictures of random squares; nothing that describes them."""
    folder = tmp_path_factory.mktemp("references")
    rng = np.random.default_rng(0)
    for number in range(COUNT + 4):
        squares = Image.fromarray(rng.integers(0, 256, (4, 8, 3), dtype=np.uint8))
        squares.resize((64, 32), Image.Resampling.NEAREST).save(folder / f"{number:02d}.png")
    paths = sorted(folder.iterdir())
    names = [path.name for path in paths]
    known = dict.fromkeys(("references", "extractor", "fast", "quantised", "exhaustive"))
    return Bench(paths=paths[:COUNT], names=names[:COUNT], released=[], **known)  # type: ignore[arg-type]


class Brightness(Hash):
    """Whether each of 32 squares is brighter than the mean."""

    name = "squares"
    stored_bytes = 4

    def hash(self, picture: Image.Image) -> np.ndarray:
        small = np.asarray(picture.convert("L").resize((8, 4), Image.Resampling.BOX), float)
        return np.packbits(small > small.mean())


class Corner(Mark):
    """The identifier as 32 pixels in the first row, black and white."""

    name = "corner"

    def write(self, picture: Image.Image, bits: np.ndarray) -> Image.Image:
        pixels = np.array(picture)
        pixels[0, :BITS] = 255 * bits[:, None]
        return Image.fromarray(pixels)

    def read(self, copy: Image.Image) -> np.ndarray:
        bright = np.asarray(copy.convert("L"))[0, :BITS] > 130  # half the brightness is too little
        return np.where(bright, 1, -1).astype(np.float32)


class Failing(Brightness):
    """Cannot prepare every picture, and can read none of them mirrored."""

    name = "failing"
    released_as = "failing"

    def prepare(self, picture: Image.Image, row: int) -> Image.Image:
        if row == 1:
            raise OSError("no such picture")
        return super().prepare(picture, row)

    def identify(self, copy: Image.Image) -> tuple[int, float]:
        if copy.size == (32, 64):
            raise ValueError("a copy that stands upright")
        return super().identify(copy)


def learnt(rival: Hash, bench: Bench) -> Hash:
    for row in range(COUNT):
        rival.codes[row] = rival.hash(bench.picture(row))
    return rival


def tried_by(rival: Rival, bench: Bench, attacks: list[Attack] = ATTACKS, rows: int = 4) -> Tried:
    ((_, one),) = try_all([rival], bench, list(range(rows)), attacks, slow=2, workers=1)
    return one


def test_identifiers_are_random_bits_and_the_seed_decides_them() -> None:
    words = codewords(4000, 0)
    assert words.shape == (4000, BITS)
    assert set(np.unique(words)) == {-1, 1}
    assert abs(words.mean()) < 0.01
    assert (words == codewords(4000, 0)).all()
    assert (words != codewords(4000, 1)).any()


def test_a_hash_finds_what_differs_in_fewest_bits(bench: Bench) -> None:
    one = tried_by(learnt(Brightness(bench), bench), bench)
    assert one.found[:, 0].all()
    assert (one.scores[:, 0] == 0).all()
    assert one.found[:, 2].all()  # half as bright: the same squares are brighter than the mean
    assert not one.found[:, 1].any()
    assert (one.psnr_db, one.ssim) == ([np.inf] * 4, [1.0] * 4)


def test_a_mark_is_read_as_the_nearest_identifier(bench: Bench) -> None:
    mark = Corner(bench)
    one = tried_by(mark, bench)
    assert one.found[:, 0].all()
    assert (one.scores[:, 0] > BITS).all()  # all bits agree, and clearly
    assert all(20 < decibels < 40 for decibels in one.psnr_db)
    pixels = np.array(one.released[3])
    pixels[0, 5] = 255 - pixels[0, 5]  # one bit wrong
    row, score = mark.identify(Image.fromarray(pixels))
    assert row == 3
    assert BITS - 1 < score < BITS


def test_failures_are_counted_and_lost(bench: Bench) -> None:
    one = tried_by(learnt(Failing(bench), bench), bench, [Attack("none"), Attack("rotation", 90)])
    assert one.failures == 4  # a picture, and three upright copies of the others
    assert one.found.tolist() == [[True, False], [False, False], [True, False], [True, False]]
    assert one.answers[1].tolist() == [FAILED, FAILED]
    assert one.released[1] is None


def test_slow_rivals_are_given_fewer_pictures(bench: Bench) -> None:
    slow = learnt(Brightness(bench), bench)
    slow.slow = True
    assert tried_by(slow, bench).rows == [0, 1]


def test_a_rate_allows_so_many_of_the_strangers() -> None:
    strange = np.arange(1000.0)
    assert threshold(strange, 1e-3) == 998  # one of a thousand, 999, may exceed it
    assert threshold(strange, 0) == 999
    assert threshold(np.array([3.0, 3.0, 1.0]), 0.5) == 3  # equal scores are refused together
    found, scores = np.array([[True, True, False]]), np.array([[998.5, 998.0, 2000.0]])
    assert recall_at_rate(found, scores, strange, 1e-3).tolist() == [[True, False, False]]


def test_strangers_are_answered_once_by_each_reader(bench: Bench) -> None:
    mark, hashes = Corner(bench), learnt(Brightness(bench), bench)
    pairs = list(try_all([mark, hashes], bench, [0], ATTACKS, slow=1, workers=1))
    folder = bench.paths[0].parent
    strangers = [(path.name, path) for path in sorted(folder.iterdir())[COUNT:]]
    try_strangers(pairs, strangers, ATTACKS, workers=1)
    for rival, one in pairs:
        assert len(one.strange_scores) == 4
        assert (one.strange_scores < (BITS if rival is mark else 0)).all()


def test_a_slow_reader_sees_every_fourth_stranger_and_compares_it_with_other_identifiers(
    bench: Bench,
) -> None:
    mark = Corner(bench)
    mark.slow = True
    scores = mark.strange_scores(bench.picture(0), 4)
    assert len(set(scores)) > 1
    assert scores[0] == mark.identify(bench.picture(0))[1]  # its own are the first
    ((_, one),) = pairs = list(try_all([mark], bench, [0], ATTACKS, slow=1, workers=1))
    strangers = [(path.name, path) for path in bench.paths[:6]]
    try_strangers(pairs, strangers, ATTACKS, workers=1)
    # the first as it is; the fifth at half its brightness: the edits are shifted by one after each turn
    darker = edited(bench.picture(4), bench.names[4], ATTACKS[2])
    assert one.strange_scores.tolist() == [*scores, *mark.strange_scores(darker, 2)]


def test_either_believes_a_sure_mark_and_asks_the_index_else() -> None:
    mark = Tried(
        [7], np.array([[7, 7, 3]]), np.array([[31.0, 29.0, 30.0]]), np.array([30.0, 10.0]), look_up_ms=[2.0]
    )
    index = Tried([7], np.array([[1, 7, 7]]), -np.ones((1, 3)), np.array([-2.0, -0.5]), look_up_ms=[1.0])
    both = by_either(mark, index, 30)
    assert both.found.tolist() == [[True, True, False]]
    assert both.scores.tolist() == [[31, -1, 30]]
    assert both.strange_scores.tolist() == [30, -0.5]
    assert both.look_up_ms == [3]


def test_costs_grow_with_what_is_scanned() -> None:
    rates = Rates({64: 1e9}, vectors=1e6, codes=1e8)
    assert rates.scan_ms(Scan("bits", 64), 10**9, 0) == pytest.approx(1000)
    assert rates.scan_ms(Scan("bits", 64, times=8), 10**9, 0) == pytest.approx(8000)
    assert rates.scan_ms(Scan("floats", 256), 4000, 0) == pytest.approx(4)
    # 1,000 cells compared, 4 lists of 1,000,000 codes gone through
    assert rates.scan_ms(Scan("cells", 256, nprobe=4), 10**9, 1000) == pytest.approx(1 + 40)
    assert rates.scan_ms(Scan("cells", 256, nprobe=1, times=3), 10**9, 1000) == pytest.approx(1 + 30)


def test_averages_are_over_edits_and_over_pictures_that_changed() -> None:
    per_edit = {"none": 1.0, "blur 11": 0.5, "hflip": 0.25}
    found = averages(per_edit, ["none", "blur 11"], ["hflip"])
    assert found == {"default": 0.75, "unseen": 0.25}
    assert mean_of_finite([np.inf, 40.0, 42.0]) == 41
    assert mean_of_finite([np.inf]) == np.inf
    lost, other = np.array([[True, False], [False, False]]), np.array([[True, True]])
    assert losses_between(lost, other) == [(0, 1)]


def test_the_page_shows_both_sides(bench: Bench, tmp_path: Path) -> None:
    mark, hashes = Corner(bench), learnt(Brightness(bench), bench)
    pairs = list(try_all([hashes, mark], bench, [0, 1], ATTACKS, slow=1, workers=1))
    records = [_record(rival, one) for rival, one in pairs]
    page = write_page(records, pairs, bench, ATTACKS, champion="corner", each=1, folder=tmp_path)
    text = page.read_text()
    assert "brightness 0.5: squares finds it, corner does not" in text
    assert text.count('class="verdict found"') == text.count('class="verdict lost"') >= 1
    header, lines = average_table(records)
    assert [len(line) for line in lines] == [len(header)] * 2
    assert edit_table(records)[1][0] == ["none", "1.00", "1.00"]


def _record(rival: Rival, one: Tried) -> dict[str, Any]:
    two = {"default": 0.5, "unseen": 0.5}
    per_edit = dict(zip(map(str, ATTACKS), one.found.mean(axis=0), strict=True))
    return {
        "name": rival.name, "family": rival.family, "pictures": 2, "recall": two, "recall_at_rate": two,
        "recall_first": two, "psnr_db": 40.0, "ssim": 1.0, "prepare_ms": 1.0, "look_up_ms": 1.0, "billion_ms": 1e3,
        "stored_bytes": 4, "finds_published": True, "failures": 0, "per_edit": per_edit,
    }  # fmt: skip


def test_who_cannot_take_part_says_why(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("imagehash", "pdqhash", "trustmark"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    for module in ("rivals.phash", "rivals.pdq"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    taking_part, left_out = enter(bench, ["phash", "pdq", "pdq8", "trustmark"])
    assert taking_part == []
    assert list(left_out) == ["phash", "pdq", "pdq8", "trustmark"]
    assert "imagehash" in left_out["phash"]


def test_every_rival_has_its_file_and_aindex_needs_none_of_their_packages() -> None:
    files = {path.stem for path in (ROOT / "benchmarks" / "rivals").glob("*.py")}
    assert {
        "phash",
        "pdq",
        "dwt_dct_svd",
        "rivagan",
        "trust_mark",
        "seals",
        "passive",
        "active",
        "several_rows",
        "combined",
    } <= files
    assert {"phash", "pdq", "rivagan", "exhaustive", "passive1", "paper", "robust"} <= set(entrants())
    foreign = re.compile(
        r"^\s*(import|from) (imagehash|pdqhash|imwatermark|trustmark|videoseal|cv2|onnxruntime)", re.M
    )
    for path in (ROOT / "aindex").rglob("*.py"):
        assert not foreign.search(path.read_text(encoding="utf-8")), path

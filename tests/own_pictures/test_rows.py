"""Several rows per picture, from the command line and from Python, on tiny pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aindex.cli import main
from aindex.collection.building import add_to_index, build_index, remove_from_index
from aindex.descriptors.extraction import ExtractionSettings, extract
from aindex.descriptors.registry import load_extractor
from aindex.descriptors.simulated import simulated_copies
from aindex.edits.named import default_attacks
from aindex.errors import ConfigError, DataError
from aindex.index.quantiser import Quantiser
from aindex.index.reference_index import ReferenceIndex
from aindex.index.row_choice import choose_rows
from aindex.matching.searching import search
from aindex.release.activating import activate
from tests.conftest import draw_picture


@pytest.fixture
def holiday(tmp_path: Path) -> Path:
    folder = tmp_path / "holiday"
    folder.mkdir()
    for seed in range(6):
        draw_picture(80 + seed, 60 + 4 * seed, 50).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def built(tmp_path: Path, holiday: Path, tiny_index: Path, quiet: ExtractionSettings) -> ReferenceIndex:
    return build_index(tmp_path / "mine", like=tiny_index, references=holiday, rows=3, settings=quiet).index


def test_pictures_get_rows_in_the_cells_of_their_copies(
    built: ReferenceIndex, holiday: Path, tiny_script: Path, tmp_path: Path, quiet: ExtractionSettings
) -> None:
    assert built.pictures == 6
    assert 6 < built.ntotal <= 18
    assert ReferenceIndex.open(tmp_path / "mine").owners.to_bytes() == built.owners.to_bytes()
    extractor = load_extractor(tiny_script, resize_size=32)
    paths = sorted(holiday.iterdir())
    described = extract(paths, extractor, num_workers=0, progress=False, precision="fp32").descriptors
    copies = simulated_copies(paths, [path.name for path in paths], extractor)
    for own, some, stored in zip(described, copies, built.stored_rows(np.arange(6)), strict=True):
        rows = choose_rows(own, some, built.quantiser, 3)
        np.testing.assert_allclose(built.quantiser.stored(rows), stored, atol=1e-5)
        cells = built.quantiser.cells(rows)
        assert cells is not None
        assert len(set(cells.tolist())) == len(rows)
        assert cells[0] == built.quantiser.cells(own[None])[0]  # type: ignore[index]


def test_each_picture_is_found_once(built: ReferenceIndex, holiday: Path, quiet: ExtractionSettings) -> None:
    table = search(built, holiday, k=6, nprobe=4, settings=quiet).table
    assert table.groupby("query")["row"].apply(lambda rows: sorted(rows) == list(range(6))).all()
    best = table[table["rank"] == 1]
    assert (best["query"].map(lambda path: Path(path).name) == best["name"]).all()


def test_simulated_copies_depend_on_the_picture_and_the_seed_alone(holiday: Path, tiny_script: Path) -> None:
    extractor = load_extractor(tiny_script, resize_size=32)
    paths = sorted(holiday.iterdir())
    names = [path.name for path in paths]
    together = list(simulated_copies(paths, names, extractor, copies=5))
    assert [some.shape for some in together] == [(5, 16)] * 6
    (alone,) = simulated_copies(paths[2:3], names[2:3], extractor, copies=5)
    np.testing.assert_array_equal(alone, together[2])
    (other,) = simulated_copies(paths[2:3], names[2:3], extractor, copies=5, seed=1)
    assert np.abs(other - alone).max() > 1e-3


def test_few_cells_need_few_rows(tiny_index: Path) -> None:
    quantiser = ReferenceIndex.open(tiny_index).quantiser
    own = np.full(16, 0.25, np.float32)
    near = own + 1e-4 * np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
    assert choose_rows(own, near, quantiser, 4).shape == (1, 16)


def test_rows_are_means_in_the_order_of_their_cells_shares() -> None:
    class Cells:
        """Cells by the sign of the first component, 0 and 1; 2 where the second is large."""

        cell_count = 3

        def cells(self, rows: np.ndarray) -> np.ndarray:
            return np.where(rows[:, 1] > 0.9, 2, (rows[:, 0] > 0).astype(int))

    quantiser: Any = Cells()
    own = np.array([-1.0, 0.0], np.float32)
    copies = np.array([[1, 0], [0.8, 0.6], [0.8, -0.6], [0.6, 0.8], [0, 1]], np.float32)
    rows = choose_rows(own, copies, quantiser, 3)
    # the own cell first, though only the picture lies in it; then the one of four copies, then the one of one
    np.testing.assert_allclose(rows[0], own)
    mean = copies[:4].mean(axis=0)
    np.testing.assert_allclose(rows[1], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(rows[2], [0, 1], atol=1e-6)
    assert choose_rows(own, copies, quantiser, 2).shape == (2, 2)
    many = np.concatenate([np.tile(copies[:1], (30, 1)), copies[4:]])
    assert len(choose_rows(own, many, quantiser, 3)) == 2  # one of 32 is not worth a row


def test_added_removed_and_released(
    tmp_path: Path, holiday: Path, built: ReferenceIndex, quiet: ExtractionSettings, capsys: Any
) -> None:
    more = tmp_path / "more"
    more.mkdir()
    draw_picture(200, 50, 40).save(more / "new.png")
    added = add_to_index(tmp_path / "mine", more, rows=3, settings=quiet)
    assert added.ids.tolist() == [6]
    main(["index", "remove", "2.png", "new.png", "--index", str(tmp_path / "mine")])
    assert "2 pictures removed, 5 pictures in all" in capsys.readouterr().out
    left = ReferenceIndex.open(tmp_path / "mine")
    assert list(left.names) == ["0.png", "1.png", "3.png", "4.png", "5.png"]
    with pytest.raises(DataError, match=r"1 of the 2 names are not in the index, '2.png'"):
        remove_from_index(tmp_path / "mine", ["2.png", "0.png"])
    main(["index", "info", "--index", str(tmp_path / "mine")])
    said = capsys.readouterr().out
    assert f"rows: {left.ntotal}" in said
    assert "pictures: 5" in said
    assert "bytes_per_picture" in said


def test_a_picture_is_drawn_to_the_cells_of_all_its_rows(
    tmp_path: Path, holiday: Path, built: ReferenceIndex, quiet: ExtractionSettings, monkeypatch: Any
) -> None:
    seen: list[Any] = []
    original = Quantiser.right_choices

    def noting(self: Quantiser, rows: Any) -> Any:
        seen.append(np.asarray(rows))
        return original(self, rows)

    monkeypatch.setattr(Quantiser, "right_choices", noting)
    released = activate(holiday, tmp_path / "out", index=tmp_path / "mine", iterations=2, settings=quiet)
    assert released.table["row"].tolist() == list(range(6))
    assert max(len(rows) for rows in seen) > 6


def test_activate_adds_several_rows(
    tmp_path: Path, holiday: Path, tiny_index: Path, quiet: ExtractionSettings
) -> None:
    build_index(tmp_path / "empty", like=tiny_index, settings=quiet)
    options: dict[str, Any] = {"index": tmp_path / "empty", "add": True, "rows": 3, "iterations": 1}
    activate(holiday, tmp_path / "out", settings=quiet, **options)
    index = ReferenceIndex.open(tmp_path / "empty")
    assert index.pictures == 6
    assert index.ntotal > 6


def test_fit_puts_several_rows_in(tiny_pipeline: Any) -> None:
    few = ["--model.loss_f=assignment", "--model.iterations=2"]
    folder = tiny_pipeline.run("fit", "--index.rows=3", *few)
    index = ReferenceIndex.open(folder / "index")
    assert index.ntotal > index.pictures
    rows = pd.read_csv(folder / "retr_df.csv")
    assert len(rows) == 7 * len(default_attacks())
    assert rows["image_index"].max() < index.pictures
    cells = pd.read_csv(folder / "queries_df.csv")["same_cell"]
    one = tiny_pipeline.run("fit", *few, output="one")
    assert cells.mean() > pd.read_csv(one / "queries_df.csv")["same_cell"].mean()


@pytest.mark.parametrize(("rows", "said"), [(0, "rows 0: expected 1 to 255"), (300, "rows 300")])
def test_impossible_numbers_of_rows(
    tmp_path: Path, holiday: Path, tiny_index: Path, quiet: ExtractionSettings, rows: int, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        build_index(tmp_path / "new", like=tiny_index, references=holiday, rows=rows, settings=quiet)
    assert not (tmp_path / "new").exists()


def test_descriptors_have_no_copies(
    tmp_path: Path, tiny_index: Path, quiet: ExtractionSettings, tiny_script: Path
) -> None:
    np.save(tmp_path / "fts.npy", np.random.default_rng(0).standard_normal((4, 16), dtype=np.float32))
    with pytest.raises(ConfigError, match="rows 2 for descriptors: expected pictures"):
        build_index(
            tmp_path / "new", like=tiny_index, references=tmp_path / "fts.npy", rows=2, settings=quiet
        )

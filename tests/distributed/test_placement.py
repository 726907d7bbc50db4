"""Where the rows of the index are makes no difference to what is found."""

from functools import partial
from pathlib import Path

import launching
import misfortunes
import pytest
import yaml


def run(workshop, tmp_path: Path, ranks: int, *options: str, name: str = "run") -> Path:
    output = tmp_path / name
    running = launching.start(
        workshop.args("fit", output, *options), tmp_path / "logs", ranks, before=misfortunes.small_blocks
    )
    assert running.wait() == [0] * ranks, running.output()
    return output


def assert_same_but_index(folder: Path, expected: dict[str, bytes]) -> None:
    found = {
        name: content for name, content in launching.results(folder).items() if not name.startswith("index/")
    }
    expected = {name: content for name, content in expected.items() if not name.startswith("index/")}
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []


def rows_of(folder: Path) -> int:
    return int(yaml.safe_load((folder / "index.yaml").read_text())["rows"])


@pytest.mark.parametrize(
    ("ranks", "on_disk"),
    [(2, "false"), (3, "true"), pytest.param(1, "false", marks=pytest.mark.slow)],
)
def test_shards(workshop, whole_fit, tmp_path: Path, ranks: int, on_disk: str):
    folder = run(workshop, tmp_path, ranks, "--index.placement=sharded", f"--index.on_disk={on_disk}")
    assert_same_but_index(folder, whole_fit)
    shares = [rows_of(folder / "index" / f"rank{rank}of{ranks}") for rank in range(ranks)]
    assert sum(shares) == 12 + 7
    # blocks of four rows are dealt in turn
    assert max(shares) - min(shares) <= 4


def test_lists_on_disk(workshop, whole_fit, tmp_path: Path):
    folder = run(workshop, tmp_path, 1, "--index.on_disk=true")
    assert_same_but_index(folder, whole_fit)
    assert "lists" in yaml.safe_load((folder / "index" / "index.yaml").read_text())["files"]


def test_an_index_on_disk_is_given(workshop, whole_fit, tmp_path: Path):
    """A run's index, which holds the originals already, and one of the references alone."""
    from aindex.cli import main

    first = run(workshop, tmp_path, 1, "--index.on_disk=true")
    skipped = ("--index.fts_", "--index.idx_factory")
    given = [f"--index.path={first / 'index'}", "--output_dir=" + str(tmp_path / "again")]
    args = [arg for arg in workshop.args("fit", tmp_path / "again") if not arg.startswith(skipped)]
    main([*args, *given, "--retrieval.exhaustive=false"])
    before = sorted(path.name for path in (first / "index").iterdir())
    assert (tmp_path / "again" / "retr_df.csv").read_bytes() == whole_fit["retr_df.csv"]
    assert "lists" in yaml.safe_load((tmp_path / "again" / "index" / "index.yaml").read_text())["files"]
    assert sorted(path.name for path in (first / "index").iterdir()) == before


def test_killed_while_shards_are_made_and_continued_on_other_ranks(workshop, whole_fit, tmp_path: Path):
    output = tmp_path / "run"
    before = partial(
        misfortunes.both,
        misfortunes.small_blocks,
        partial(
            misfortunes.killed_at_file_event,
            folder=str(output / "index" / "rank1of2"),
            rank=1,
            event=3,
            delay_s=0.0,
            number=9,
        ),
    )
    args = workshop.args("fit", output, "--index.placement=sharded")
    running = launching.start(args, tmp_path / "logs", 2, before=before)
    assert all(running.wait()), running.output()
    run(workshop, tmp_path, 3, "--index.placement=sharded")
    assert_same_but_index(output, whole_fit)
    assert sorted(path.name for path in (output / "index").iterdir()) == [
        *(f"rank{rank}of3" for rank in range(3)),
        "trained",
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--index.idx_factory=HNSW8"], "a sharded 'HNSW8' would find other neighbours"),
        (["--index.on_disk=true", "--index.idx_factory=PQ4x4"], "cannot keep its inverted lists on the disk"),
    ],
)
def test_what_cannot_be_placed_is_said_before_the_work(workshop, tmp_path: Path, options, words):
    args = workshop.args("fit", tmp_path / "run", "--index.placement=sharded", *options)
    running = launching.start(args, tmp_path / "logs", 2)
    assert running.wait() == [1, 1]
    (line,) = running.errors()
    assert words in line

"""What several rows per picture cost, and what they do to the other pictures of the index."""

import pandas as pd

from aindex.cli import main
from aindex.edits.named import default_attacks
from aindex.evaluation.run_files import read_run
from aindex.index.reference_index import ReferenceIndex


def _evaluate_others(pipeline, fitted, output):
    """The references' copies in the index of a run, which holds them already."""
    options = [
        one for one in pipeline.args(output=output) if not one.startswith(("--index.fts_", "--index.idx_"))
    ]
    main(
        [
            "evaluate",
            *options,
            f"--data.data_dir={pipeline.folder / 'references'}",
            f"--index.path={fitted / 'index'}",
        ]
    )
    return pipeline.folder / output


def test_rows_are_counted_and_other_pictures_can_be_evaluated(tiny_pipeline, tmp_path, capsys):
    tables = {}
    for rows in (1, 3):
        options = (f"--index.rows={rows}", "--model.iterations=1", "--model.active=false")
        fitted = tiny_pipeline.run("fit", *options, output=f"fit{rows}")
        index = ReferenceIndex.open(fitted / "index")
        tables[rows] = pd.read_csv(fitted / "index_df.csv").iloc[0]
        assert tables[rows]["rows"] == index.ntotal
        assert tables[rows]["rows_per_picture"] == (index.ntotal - 12) / 7
        scanned = pd.read_csv(fitted / "queries_df.csv")["scanned_rows"]
        sizes = {index.quantiser.ivf.invlists.list_size(cell) for cell in range(4)}
        assert set(scanned) <= sizes
        others = _evaluate_others(tiny_pipeline, fitted, f"others{rows}")
        other = pd.read_csv(others / "index_df.csv").iloc[0]
        assert (other["rows"], other["rows_per_picture"]) == (index.ntotal, 1)
        assert len(pd.read_csv(others / "retr_df.csv")) == 12 * len(default_attacks())
    assert tables[3]["rows_per_picture"] > tables[1]["rows_per_picture"] == 1
    assert tables[3]["bytes_per_picture"] > tables[1]["bytes_per_picture"] == 2 + 8
    main(
        [
            "compare",
            *(str(tmp_path / f"others{rows}") for rows in (1, 3)),
            f"--output_dir={tmp_path / 'compared'}",
        ]
    )
    assert (tmp_path / "compared" / "cost.png").stat().st_size > 0
    assert "other pictures" not in capsys.readouterr().err
    assert read_run(tmp_path / "others3").results.metric == "L2"

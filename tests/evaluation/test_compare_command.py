"""The command `compare`."""

import pytest

from aindex.cli import main


def test_any_number_of_runs(make_run, tmp_path, capsys):
    runs = [str(make_run(name, seed=seed)) for seed, name in enumerate(("one", "two", "three"))]
    output = tmp_path / "compared"
    main(["compare", *runs, "--output_dir", str(output), "--examples=1"])
    assert "comparison of 3 run(s)" in capsys.readouterr().out
    for name in ("compare.md", "compare.tex", "compare.csv", "curves.png", "cost.pdf", "report.html"):
        assert (output / name).stat().st_size > 0
    assert "| attack | passive | one | two | three |" in (output / "compare.md").read_text()
    with pytest.raises(SystemExit):
        main(["compare", *runs, "--output_dir", str(output)])
    assert "compare.md lies there already" in capsys.readouterr().err
    main(["compare", runs[0], "--output_dir", str(output), "--overwrite=true"])


def test_without_runs_and_with_none(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["compare"])
    assert exit_.value.code == 2
    assert "runs" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        main(["compare", str(tmp_path), "--output_dir", str(tmp_path / "out")])
    assert exit_.value.code == 1
    assert "retr_df.csv" in capsys.readouterr().err

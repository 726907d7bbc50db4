"""How the program is called, and what goes where: processes of their own, as people start them."""

import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

import aindex
from aindex.cli import COMMANDS, EXIT_CODES, main
from aindex.commands.index import ACTIONS
from aindex.commands.pipeline_help import ESSENTIAL, EXAMPLES
from tests.conftest import write_pictures

ROOT = Path(aindex.__file__).resolve().parent.parent


def started(*args: str, **more: object) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **dict(more.pop("env", {}))}  # type: ignore[call-overload]
    command = [sys.executable, "-m", "aindex", *args]
    # tests that were started in the background have it ignored, and what they start would, too
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, preexec_fn=heard, **more)  # type: ignore[call-overload]


def test_the_module_is_the_program() -> None:
    for option in ("-V", "--version"):
        told = subprocess.run(
            [sys.executable, "-m", "aindex", option], capture_output=True, text=True, check=True, cwd=ROOT
        )
        assert told.stdout == f"aindex {aindex.__version__}\n"


def test_types_are_there_for_others() -> None:
    assert (Path(aindex.__file__).parent / "py.typed").is_file()
    if (ROOT / "setup.cfg").is_file():
        assert "py.typed" in (ROOT / "setup.cfg").read_text()


@pytest.mark.parametrize(("word", "meant"), [("serach", "search"), ("activat", "activate"), ("fitt", "fit")])
def test_did_you_mean(word: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([word])
    assert stopped.value.code == 2
    assert f"(did you mean {meant}?)" in capsys.readouterr().err


def test_did_you_mean_an_action(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["index", "biuld"])
    assert stopped.value.code == 2
    assert "(did you mean build?)" in capsys.readouterr().err


def test_exit_codes_are_documented() -> None:
    documented = ROOT / "docs" / "usage.md"
    if not documented.is_file():
        pytest.skip("documentation is beside a checkout only")
    assert all(f"| {code} | {text} |" in documented.read_text() for code, text in EXIT_CODES.items())


def helped(command: str, capsys: pytest.CaptureFixture[str], option: str = "--help") -> list[str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), option])
    assert stopped.value.code == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    "command", [*(name for name in COMMANDS if name != "index"), *(f"index {name}" for name in ACTIONS)]
)
def test_each_help_ends_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = helped(command, capsys)
    assert lines[0].startswith(f"usage: aindex {command}")
    assert lines[-1].startswith(f"  aindex {command} ")
    titles = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert not any("Trainer" in title or "``" in title for title in titles)


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_the_pipelines_help_is_a_page(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    short = helped(command, capsys)
    assert len(short) <= 45
    assert all(len(line) <= 112 for line in short)
    named = [name for group in ESSENTIAL.values() for name in group]
    assert [line.split()[0] for line in short if line.startswith("  --")] == [f"--{name}" for name in named]
    assert short[-len(EXAMPLES[command]) :] == [f"  {line}" for line in EXAMPLES[command]]
    everything = helped(command, capsys, "--help_all")
    titles = [line for line in everything if line.endswith(":") and not line.startswith(" ")]
    assert titles.index("the images:") < titles.index("Lightning's trainer: devices, precision, logging:")
    assert len(everything) > 400


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion"])
    (tmp_path / "aindex.bash").write_text(capsys.readouterr().out)

    def completed(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in words)
        script = (
            f"source {tmp_path / 'aindex.bash'}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _aindex; "
            'echo "${COMPREPLY[@]}"'
        )
        return subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, check=True
        ).stdout.split()

    assert completed("aindex", "ca") == ["calibrate"]
    assert completed("aindex", "index", "re") == ["remove"]
    assert completed("aindex", "index", "build", "--li") == ["--like"]
    assert completed("aindex", "activate", "--min") == ["--min_psnr"]
    assert "--index.kneighbors" in completed("aindex", "fit", "--index.k")
    main(["completion", "--shell", "zsh"])
    assert "bashcompinit" in capsys.readouterr().out


def test_a_reader_that_closes_the_pipe_ends_the_command_without_a_word() -> None:
    process = started("index", "info", stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    told = process.communicate(timeout=120)[1]
    assert (process.returncode, told) == (141, b"")


def test_ctrl_c_is_one_line(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", 3)
    out = tmp_path / "out"
    given = ["--images=pictures", "--out=out", "--index=shipped", "--iterations=100000", "--num_workers=0"]
    process = started("activate", *given, stdout=subprocess.DEVNULL, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not (out / ".aindex").is_dir() and time.monotonic() < deadline:
        time.sleep(0.1)
    told = b""
    try:
        for _ in range(20):
            # as people do: now and then a library catches the first
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                told = process.communicate(timeout=10)[1]
                break
    finally:
        process.kill()
    assert process.returncode == 130
    lines = [line for line in told.decode().splitlines() if not line.startswith("aindex: warning")]
    assert lines == ["aindex: error: interrupted: what is finished stays, the same command goes on"]


def test_ctrl_c_is_one_line_where_processes_work(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", 40)
    given = ["--data_dir=pictures", "--output_dir=out", "--edits=full", "--num_workers=2"]
    process = started("augment", *given, stdout=subprocess.DEVNULL, cwd=tmp_path, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "out").is_dir() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        # a terminal tells every process of the command
        os.killpg(process.pid, signal.SIGINT)
        told = process.communicate(timeout=60)[1].decode()
    finally:
        process.kill()
    assert process.returncode in (130, -signal.SIGINT)  # a shell says 130 of both
    assert told.splitlines() == [
        "aindex: error: interrupted: what is finished stays, the same command goes on"
    ]


def test_bars_are_drawn_on_the_error_stream_of_a_terminal(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", 3)
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 80))
    command = [sys.executable, "-m", "aindex", "extract", "--data_dir=pictures", "--output_dir=out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=child, timeout=300, check=True
    )
    os.close(child)
    told = b""
    with suppress(OSError):  # how a terminal ends
        while part := os.read(parent, 100_000):
            told += part
    assert b"extract: 100%" in told
    assert done.stdout == b"out: 3 descriptors of dimension 256\n"

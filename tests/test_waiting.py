import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from aindex.cli import main
assert "torch" not in sys.modules and "faiss" not in sys.modules, "too late for their threads to hear of it"
try:
    main(["extract", "--no_such_option"])
except SystemExit:
    print(os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_commands_let_waiting_threads_sleep_soon_unless_told_otherwise(
    given: dict[str, str], expected: str
) -> None:
    chosen = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {key: value for key, value in os.environ.items() if key not in chosen} | given
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.split()[-1] == expected

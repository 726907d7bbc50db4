import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from aindex.memory import keep_freed_memory
keep_freed_memory()
for _ in range(5):
    torch.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again() -> None:
    # in a process of its own: the setting cannot be taken back
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    # 40 MB are 9,766 pages; handed back, each of the five tensors would fault them in anew, 48,830 in all. A kernel
    # that takes idle pages from processes causes some faults of its own.
    assert int(result.stdout) < 4 * 9766

"""The server's memory lies in large pages once its models are loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MIB = 1 << 20
# In a process of its own, whose memory is its own: 64 MiB of small pages and how much of all lies in large ones.
SCRIPT = """
import mmap, re
from pathlib import Path
from mscsa_deploy.serving.pages import use_large_pages

def large():
    return int(re.search(r"AnonHugePages: +(\\d+) kB", Path("/proc/self/smaps_rollup").read_text())[1]) << 10

block = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
block.madvise(mmap.MADV_NOHUGEPAGE)
block[::4096] = bytes(range(256)) * 64
block.madvise(mmap.MADV_HUGEPAGE)
before = large()
use_large_pages()
assert block[::4096] == bytes(range(256)) * 64
print(before, large())
"""


def kernel():
    return tuple(int(part) for part in Path("/proc/sys/kernel/osrelease").read_text().split("-")[0].split(".")[:2])


@pytest.mark.skipif(sys.platform != "linux" or not POLICY.exists(), reason="large pages are Linux's")
def test_memory_moves_into_large_pages_and_keeps_its_contents():
    if "[never]" in POLICY.read_text() or kernel() < (6, 1):
        pytest.skip("large pages are forbidden here, or Linux is too old")
    told = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60)
    before, after = map(int, told.stdout.split())
    # a machine short of memory in one piece may refuse some
    assert after - before > 32 * MIB

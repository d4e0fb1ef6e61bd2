"""What a step frees stays with the process until it is given back."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from embsearch.train import process_memory

SIZE = 200 * 2**20
STEPS = """
import json, resource, sys
from pathlib import Path
import torch
from embsearch.train import process_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

if sys.argv[1] == "keep":
    assert process_memory.retain_freed()
for _ in range(6):  # aligned blocks find room among each other's only after some turns
    parts = [torch.ones(40 * 2**20, dtype=torch.uint8) for _ in range(5)]
    del parts
first = faults()
parts = [torch.ones(40 * 2**20, dtype=torch.uint8) for _ in range(5)]
again, full = faults(), held()
del parts
freed = held()
process_memory.release_freed()
print(json.dumps({"again": again - first, "freed": full - freed, "given": full - held()}))
"""


@pytest.mark.skipif(process_memory._glibc("mallopt") is None, reason="only glibc can be told")
def test_freed_memory_is_kept_and_given_back():
    def run(how):
        return json.loads(
            subprocess.run(
                [sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True
            ).stdout
        )

    kept, plain = run("keep"), run("plain")
    assert kept["again"] * 10 < plain["again"]
    assert kept["freed"] < 0.1 * SIZE < 0.9 * SIZE < kept["given"]


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(process_memory.ctypes, "CDLL", lambda name: object())
    assert not process_memory.retain_freed()
    process_memory.release_freed()

"""What is freed goes back to the system. In a process of its own: an allocator's settings are for life."""

import subprocess
import sys

PROGRAM = """
from tokenyard.http.memory import bound_heap, trim
import psutil

def rss_mib():
    return psutil.Process().memory_info().rss >> 20

bound_heap()
# As after a tokenizer's load: small blocks without end, of which one in a hundred stays, all over the heap.
blocks = [bytes(600) for _ in range(200_000)]
kept = blocks[::100]
full = rss_mib()
del blocks
trim()
print(full - rss_mib())
# As bodies are: the second would stay, once the first has raised glibc's threshold.
before = rss_mib()
for _ in range(2):
    text = b"x" * (20 << 20)
    del text
print(rss_mib() - before)
"""


COLLECTOR = """
import gc, weakref
import tokenyard.http.app
from tokenyard.http.memory import YOUNG_OBJECTS, spare_collector

class Knot:
    pass

spare_collector()
looked_at = []
gc.callbacks.append(lambda phase, info: looked_at.append(len(gc.get_objects())) if phase == "start" else None)
knot = Knot()
knot.self = knot
alive = weakref.ref(knot)
del knot
kept = [[] for _ in range(2 * YOUNG_OBJECTS)]
print(max(looked_at) <= 3 * YOUNG_OBJECTS, alive() is None)
"""


def test_the_collector_looks_at_new_objects_only_and_still_finds_garbage() -> None:
    done = subprocess.run([sys.executable, "-c", COLLECTOR], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_freed_memory_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    trimmed, left = map(int, done.stdout.split())
    assert trimmed > 80
    assert left < 10

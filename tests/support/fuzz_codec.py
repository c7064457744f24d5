"""A campaign against the decoder, led by coverage: what comes in is a WireError, or a message that survives the trip.

    scripts/fuzz.sh codec --minutes 10

Exit status 1 at a find, whose frame is kept. libFuzzer ends its process without Python's farewell, so it has one of its
own, and counts where this one sees it.
"""

import multiprocessing
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from ctypes import c_uint64
from pathlib import Path
from typing import Annotated, Any

import atheris
import msgpack
import typer

MAX_LEN = 4096
"""Bytes of a frame: room for every message with several of each part."""
SEEDS_PER_KIND = 12
LIMITS = ["-timeout=10", "-rss_limit_mb=1024"]
"""Seconds and memory that one frame may take; libFuzzer calls more a find."""
FRAMES, MESSAGES, FIRST_TAG, NUM_COUNTS = 0, 1, 2, 2 + 256
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)),
    *(0.0, -0.0, 1.5, 1e308, float("inf"), float("nan")),
    *("", "a", "\x00", "ready", b"", b"\xff", b"8 bytes.", bytes(16)),
    *([], {}, [[]], {"": {}}, {1: 1}, msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 1)),
]
"""What stands where something else belongs."""
SEEDS: list[bytes] = []
"""Frames of every message. libFuzzer alone would forget most: it sees which lines run, and few check all kinds."""


def hunt(seconds: int, out: Path, counts: Any, seed: int) -> None:
    """Fuzz in this process, which ends here; a find is its exit status."""
    with atheris.instrument_imports(include=["tokenyard.broker"]):
        from tokenyard.broker.codec import decode, encode
        from tokenyard.broker.wire import TAG_OF
    from tokenyard.broker.errors import WireError

    def one(frame: bytes) -> None:
        counts[FRAMES] += 1
        try:
            message = decode(frame)
        except WireError:
            return
        counts[MESSAGES] += 1
        counts[FIRST_TAG + TAG_OF[type(message)]] += 1
        back = decode(encode(message))
        assert back == message, f"{message} came back as {back}"
        assert type(back) is type(message)

    corpus = out / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    SEEDS.extend(seeds())
    for number, frame in enumerate(SEEDS):
        (corpus / f"seed-{number}").write_bytes(frame)
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_LEN}", f"-artifact_prefix={out}/", f"-seed={seed}"]
    atheris.Setup([sys.argv[0], *options, *LIMITS, str(corpus)], one, custom_mutator=mutated)
    atheris.Fuzz()


def seeds() -> Iterator[bytes]:
    """Frames of every message, made from its annotations; the same in each campaign."""
    from contract import values
    from hypothesis import given, settings

    from tokenyard.broker.codec import encode
    from tokenyard.broker.wire import TAGS

    made: list[bytes] = []
    for kind in TAGS.values():

        @settings(max_examples=SEEDS_PER_KIND, derandomize=True, database=None)
        @given(values(kind))
        def keep(message: Any) -> None:
            made.append(encode(message))

        keep()
    yield from dict.fromkeys(frame for frame in made if len(frame) <= MAX_LEN)


def mutated(data: bytes, max_size: int, seed: int) -> bytes:
    """Bytes as libFuzzer changes them, or well-formed msgpack with another value somewhere in it."""
    rng = random.Random(seed)
    if rng.random() < 0.3:
        data = rng.choice(SEEDS)
    if rng.random() < 0.6:
        try:
            value = [msgpack.unpackb(data, strict_map_key=False)]
            for _ in range(rng.randint(1, 3)):
                change(value, rng)
            return bytes(msgpack.packb(value[0])[:max_size])
        except (ValueError, TypeError, OverflowError, RecursionError):
            pass  # what was no msgpack, or is none any more
    return bytes(atheris.Mutate(data, max_size))


def change(holder: Any, rng: random.Random) -> None:
    """Somewhere below: another value, one more, one less, or the same twice."""
    while True:
        place = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        part = holder[place]
        if not (isinstance(part, list | dict) and part) or rng.random() < 0.2:
            break
        holder = part
    way = rng.randrange(6)
    if way == 0 and isinstance(part, bytes | str) and part:
        holder[place] = part[: rng.randrange(len(part))] if rng.random() < 0.5 else part + part
    elif way == 1 and type(part) is int:
        holder[place] = part + rng.choice((-1, 1, 1 << rng.randrange(64)))
    elif way == 2 and isinstance(holder, list) and len(holder) > 1:
        del holder[place]
    elif way == 3 and isinstance(holder, list):
        holder.insert(place, part)
    elif way == 4:
        for _ in range(rng.choice((1, 3, 600))):  # as deep as no unpacker goes
            part = {"a": part} if rng.random() < 0.5 else [part]
        holder[place] = part
    else:
        holder[place] = rng.choice(ODD)


def main(
    minutes: Annotated[float, typer.Option(min=0.01)] = 10.0,
    out: Annotated[Path | None, typer.Option(help="Folder for finds and the corpus; else one in /tmp.")] = None,
    seed: Annotated[int, typer.Option(help="Of the mutations; 0: another each time.")] = 0,
) -> None:
    """Fuzz the decoder for so long, and tell what came of it."""
    out = out or Path(tempfile.mkdtemp(prefix="fuzz-codec-"))
    out.mkdir(exist_ok=True)
    old = set(out.iterdir())
    context = multiprocessing.get_context("spawn")
    counts = context.Array(c_uint64, NUM_COUNTS, lock=False)
    hunting = context.Process(target=hunt, args=(round(60 * minutes), out, counts, seed))
    hunting.start()
    hunting.join()
    of_tag = Counter({tag: count for tag, count in enumerate(counts[FIRST_TAG:]) if count})
    finds = sorted(path for path in set(out.iterdir()) - old if path.is_file())
    typer.echo(f"{counts[FRAMES]:,} frames, {counts[MESSAGES]:,} of them messages, of {len(of_tag)} kinds")
    for path in finds:
        typer.echo(f"FIND: {path}: {path.read_bytes()[:200]!r}")
    raise typer.Exit(1 if finds or hunting.exitcode else 0)


if __name__ == "__main__":
    typer.run(main)

"""Mutations of real files, and a watch over the code that reads them: its time, its memory, and
what it raises."""

import json
import math
import random
import signal
import struct
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning

# For one small file: of computing, and of waiting, on a machine that others use too.
SECONDS, PATIENCE = 20.0, 300.0
# A reader may take so much memory, and so many times the file's size.
FREE_BYTES, TIMES = 48 << 20, 100
# Of each reader: in a default run, and in the long one.
EXAMPLES = [pytest.param(1, id="short"), pytest.param(20, id="long", marks=pytest.mark.slow)]


class HangError(BaseException):
    """A reader takes too long. No Exception, so that no reader catches it."""


def hunt(examples: int, cases: st.SearchStrategy, check: Callable[[Any], str]) -> Counter:
    """Runs check on so many cases, always the same ones, and counts what it says: 'read' or
    'refused'."""
    counts: Counter = Counter()

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(cases)
    def run(case):
        counts[check(case)] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisWarning)  # that a case that fails is long
        run()
    print(dict(counts))
    return counts


def outcome(
    read: Callable[[], Any], errors: tuple[type[Exception], ...], named: Path | None, size: int
) -> str:
    """'read', or 'refused' where read raised one of errors, with `named` in its message if given.

    All else fails. size: bytes, see `watched`.
    """
    message = None
    try:
        with watched(size):
            read()
    except errors as error:
        message = str(error)
    shown = message is None or named is None or str(named) in message
    assert shown, f"without the path {named}: {message}"
    return "read" if message is None else "refused"


@contextmanager
def watched(size: int) -> Iterator[None]:
    """Fails where the block computes longer than SECONDS or waits longer than PATIENCE, or takes
    more memory than a file of so many bytes may cost."""

    def stop(number, frame):
        raise HangError(f"after {SECONDS:g} s of computing, or {PATIENCE:g} s, still reading")

    timers = {
        signal.SIGPROF: (signal.ITIMER_PROF, SECONDS),
        signal.SIGALRM: (signal.ITIMER_REAL, PATIENCE),
    }
    before = {number: signal.signal(number, stop) for number in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    tracemalloc.start()
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= FREE_BYTES + TIMES * size, f"{peak:,} bytes for a file of {size:,}"


# What damaged and malicious files hold: extreme numbers in every width, text that is none,
# beginnings of long structures.
TOKENS = [bytes(n) for n in (1, 4, 8)] + [b"\xff" * n for n in (1, 2, 4, 8)]
TOKENS += [struct.pack("<q", number) for number in (1, -1, 2**31, 2**40, 2**62, -(2**63))]
TOKENS += [struct.pack(">i", number) for number in (1, 2**16, 2**31 - 1)]
TOKENS += [b"-1", b"0", b"9" * 20, b"9" * 5000, b"1e999", b"NaN", b"Infinity", b"null", b"true"]
TOKENS += [b"[" * 3000, b'{"a":' * 3000, b"(" * 300, b"../../x", b"\\ud800", b"\xed\xa0\x80"]
TOKENS += [b'"', b"'", b",", b"\n"]


def places() -> st.SearchStrategy[float]:
    """Where in a file: bytes from its beginning or its end, where headers and directories lie, or a
    share of its length."""
    share = st.floats(0, 1, exclude_max=True, exclude_min=True)
    return st.one_of(st.integers(0, 400), st.integers(-400, -1), share)


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """content with one to four edits: bits flipped, bytes cut off, inserted, deleted, repeated,
    replaced, swapped."""
    kinds = st.sampled_from(("flip", "cut", "insert", "delete", "repeat", "replace", "swap"))
    edit = st.tuples(kinds, places(), places(), st.integers(0, 400), st.sampled_from(TOKENS))
    return st.lists(edit, min_size=1, max_size=4).map(lambda edits: _edited(content, edits))


def _edited(content: bytes, edits: list[tuple]) -> bytes:
    for kind, place, other, count, token in edits:
        at, to = (_position(content, where) for where in (place, other))
        if kind == "flip" and content:
            at = min(at, len(content) - 1)
            content = content[:at] + bytes([content[at] ^ 1 << count % 8]) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "insert":
            content = content[:at] + token + content[at:]
        elif kind == "delete":
            content = content[:at] + content[at + count :]
        elif kind == "repeat":
            content = content[:at] + content[at : at + count] * 5 + content[at + count :]
        elif kind == "replace":
            content = content[:at] + token + content[at + len(token) :]
        elif kind == "swap" and at + count <= to:
            moved = content[to : to + count] + content[at + count : to] + content[at : at + count]
            content = content[:at] + moved + content[to + count :]
    return content


def _position(content: bytes, where: float) -> int:
    if isinstance(where, int):
        return min(where, len(content)) if where >= 0 else max(0, len(content) + where)
    return int(where * len(content))


# Values that JSON may hold in any place. The words between @ stand for text that json.dumps cannot
# write.
RAW = {
    '"@deep@"': "[" * 5000 + "]" * 5000,
    '"@nested@"': "[" * 300 + "]" * 300,
    '"@digits@"': "9" * 6000,
    '"@long@"': "9" * 400,
    '"@beyond@"': "1e999",
}
VALUES: list[Any] = [None, True, False, 0, 1, -1, 2, 3, 7, 10**6, 10**9, 10**12, -(10**30)]
VALUES += [2**31, 2**62, 2**63, 2**64, 0.5, -0.0, 1e-300, 1e300, math.nan, math.inf, -math.inf]
VALUES += ["", "x", "0", "\ud800", "\0", "../../x", "/etc/passwd", "C:\\x", "a/b", "..", "<b>&"]
VALUES += ["y" * 5000, [], [1], ["x"], [[]], {}, {"a": 1}, {"": {}}]
VALUES += [name.strip('"') for name in RAW]


def json_damaged(content: Any) -> st.SearchStrategy[bytes]:
    """JSON of content with one to three values replaced, taken out, put elsewhere or renamed."""
    paths = list(_paths(content))
    kinds = st.sampled_from(("set", "set", "set", "delete", "rename", "copy"))
    edit = st.tuples(kinds, st.sampled_from(paths), st.sampled_from(VALUES), st.sampled_from(paths))
    return st.lists(edit, min_size=1, max_size=3).map(lambda edits: json_edited(content, edits))


def json_edited(content: Any, edits: list[tuple]) -> bytes:
    content = json.loads(json.dumps(content))
    for kind, path, value, other in edits:
        holder, last = _holder(content, path)
        if holder is None:
            continue
        if kind == "set":
            holder[last] = value
        elif kind == "delete":
            del holder[last]
        elif kind == "rename" and isinstance(holder, dict) and isinstance(value, str):
            holder[value] = holder.pop(last)
        elif kind == "copy":
            source, name = _holder(content, other)
            if source is not None:
                holder[last] = json.loads(json.dumps(source[name]))
    text = json.dumps(content)
    for name, raw in RAW.items():
        text = text.replace(name, raw)
    return text.encode()


def _paths(content: Any, prefix: tuple = ()) -> Iterator[tuple]:
    items: Any = ()
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, list):
        items = enumerate(content)
    for name, value in items:
        yield (*prefix, name)
        yield from _paths(value, (*prefix, name))


def _holder(content: Any, path: tuple) -> tuple[Any, Any]:
    """The dict or list that holds the place, and the name there; (None, None) where an earlier edit
    took it away."""
    for name in path[:-1]:
        content = _within(content, name)
    return (content, path[-1]) if _within(content, path[-1]) is not _NOTHING else (None, None)


_NOTHING = object()


def _within(content: Any, name: Any) -> Any:
    if isinstance(content, dict):
        return content.get(name, _NOTHING)
    if isinstance(content, list) and isinstance(name, int) and name < len(content):
        return content[name]
    return _NOTHING


def shuffled(items: list, edits: list[tuple[str, int, int]]) -> list:
    """items with some taken out, doubled, swapped."""
    items = list(items)
    for kind, first, second in edits:
        if not items:
            break
        first, second = first % len(items), second % len(items)
        if kind == "delete":
            del items[first]
        elif kind == "double":
            items.insert(first, items[first])
        elif kind == "swap":
            items[first], items[second] = items[second], items[first]
        elif kind == "copy":
            items.insert(first, items[second])
    return items


def shuffles() -> st.SearchStrategy[list[tuple[str, int, int]]]:
    kinds = st.sampled_from(("delete", "double", "swap", "copy"))
    edit = st.tuples(kinds, st.integers(0, 10**6), st.integers(0, 10**6))
    return st.lists(edit, min_size=1, max_size=6)


def noise(count: int) -> bytes:
    """Bytes of no kind, always the same."""
    return random.Random(0).randbytes(count)


def np_noise(count: int) -> np.ndarray:
    """float64 [count], standard deviation 0.1."""
    return 0.1 * np.random.default_rng(0).normal(size=count)

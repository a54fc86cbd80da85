"""One file from the web, complete or not at all: resumed where it was cut, checked, then given its name.

While a file is on its way it is called NAME.part, so that a file called NAME is complete.
"""

import hashlib
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jaxsep.console import say
from jaxsep.files import display

BLOCK = 1 << 20
TIMEOUT_SECONDS = 60.0
# Transfers in a row that may be cut without bringing the file further by PROGRESS, and the pauses after them: 1, 2, 4, ... s.
ATTEMPTS = 6
PAUSE_SECONDS = 1.0
PROGRESS = 1 << 20
# HTTP's words for: ask again later.
BUSY = (408, 425, 429, 500, 502, 503, 504)
GO_ON = "the same command goes on from there"


class FetchError(Exception):
    """A file cannot be had, kept or used as published. The message is one line, made for the user."""


class _Cut(Exception):
    """A transfer ended too early for a reason that may pass; the message says which."""


def fetch(
    url: str,
    target: Path,
    *,
    size: int,
    md5: str | None,
    attempts: int = ATTEMPTS,
    pause: float = PAUSE_SECONDS,
) -> None:
    """Brings the file at `url` to `target`; its folder must exist. A complete file found there is only checked.

    What an earlier call left of it in `target`.part is kept and the rest asked for (HTTP Range); a server that knows no
    ranges sends the file from its beginning. A bar shows the time left.

    Args:
        url: http or https; redirections are followed, proxies taken from the environment.
        target: path of the complete file.
        size: bytes. Exact where there is an md5; without one an estimate, for the bar alone.
        md5: hex digest wanted, or None for a file that is published without: then it is as long as the server says.
        attempts: transfers in a row that may fail without bringing the file further by 1 MiB.
        pause: seconds before the second attempt, doubled before each further one.

    Raises:
        FetchError: all attempts failed, the server refuses, the file has another size or MD5 (it is removed), or the
            disk takes no more. What has arrived is kept, but for a wrong MD5.
    """
    if not target.exists():
        part = part_of(target)
        _persist(url, part, size, exact=md5 is not None, attempts=attempts, pause=pause)
        _check_md5(part, target.name, md5)
        with writing(target):
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            os.rename(part, target)
    else:
        _check_md5(target, target.name, md5)


def part_of(target: Path) -> Path:
    """Where the beginning of an incomplete `target` lies."""
    return target.with_name(f"{target.name}.part")


def length(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def byte_bar(title: str, total: int, *, initial: int = 0) -> tqdm:
    """A progress bar in bytes, with the time left, for what takes longer than a second; in a log, a line every 20 s."""
    when: dict[str, Any] = {
        "delay": 1.0,
        "mininterval": 0.1 if sys.stderr.isatty() else 20.0,
        "dynamic_ncols": True,
    }
    return tqdm(
        total=total, initial=initial, desc=title, unit="B", unit_scale=True, leave=False, **when
    )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Makes one line of what the disk says: no space left, no permission, ..."""
    try:
        yield
    except OSError as error:
        raise FetchError(
            f"{display(path)}: cannot be written ({error.strerror or error}); {GO_ON}"
        ) from error


def _persist(url: str, part: Path, size: int, *, exact: bool, attempts: int, pause: float) -> None:
    failures, furthest = 0, length(part)
    while True:
        try:
            _transfer(url, part, size, exact=exact)
            return
        except _Cut as cut:
            # Measured by the furthest point, so that a server without ranges which cuts every time is given up too.
            failures = 1 if length(part) >= furthest + PROGRESS else failures + 1
            furthest = max(furthest, length(part))
            if failures >= attempts:
                have = f"{length(part):,} of {size:,} bytes are here"
                raise FetchError(
                    f"{url}: {cut}, {failures} times in a row; {have}; {GO_ON}"
                ) from cut
            seconds = pause * 2 ** (failures - 1)
            say(f"{url}: {cut}; attempt {failures + 1} of {attempts} in {seconds:g} s")
            time.sleep(seconds)


def _transfer(url: str, part: Path, size: int, *, exact: bool) -> None:
    """One request for all that is missing."""
    start = length(part)
    if exact and start >= size:
        if start == size:
            return
        part.unlink()
        start = 0
    with _ask(url, part, start) as response:
        start, total = _answered(response, part, start)
        if exact and total not in (None, size):
            raise FetchError(f"{url}: has {total:,} bytes; must have {size:,}")
        with (
            writing(part),
            open(part, "ab" if start else "wb") as file,
            byte_bar(f"fetching {part.stem}", total or size, initial=start) as bar,
        ):
            # To the last byte and not to the end of the connection, which a server may leave open.
            while file.tell() != total and (block := _read(response)):
                file.write(block)
                bar.update(len(block))
    wanted = size if exact else total
    if wanted is not None and length(part) != wanted:
        raise _Cut(f"cut after {length(part):,} of {wanted:,} bytes")


def _ask(url: str, part: Path, start: int) -> HTTPResponse:
    """The server's answer to a request for the bytes from `start` on."""
    request = urllib.request.Request(url, headers={"User-Agent": "jaxsep"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # what is here is no beginning of what the server has now
            part.unlink(missing_ok=True)
        elif error.code not in BUSY:
            raise FetchError(f"{url}: the server answers {error.code} ({error.reason})") from error
        raise _Cut(f"the server answers {error.code} ({error.reason})") from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise FetchError(f"{url}: {reason}") from error
        raise _Cut(f"no answer ({reason})") from error


def _answered(response: HTTPResponse, part: Path, start: int) -> tuple[int, int | None]:
    """(offset of the answer's first byte in the file, length of the whole file in bytes or None where it is not said)"""
    if response.status == 206:
        said = response.headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", said)
        if found is None or int(found[1]) != start:
            part.unlink()
            raise _Cut(f"asked for bytes from {start:,} on, the server answers {said!r}")
        return start, int(found[2]) if found[2] != "*" else None
    if start:
        say(f"{response.url}: this server cannot resume; from the beginning")
    said = response.headers.get("Content-Length", "")
    return 0, int(said) if said.isdecimal() else None


def _read(response: HTTPResponse) -> bytes:
    """What has arrived, at least a byte; b"" at the end."""
    try:
        return response.read1(BLOCK)
    except (OSError, HTTPException) as error:
        raise _Cut(f"cut ({error})") from error


def _check_md5(path: Path, name: str, wanted: str | None) -> None:
    """FetchError, and the file removed, where its MD5 is not the one wanted."""
    if wanted is None:
        return
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file, byte_bar(f"checking {name}", length(path)) as bar:
        while block := file.read(BLOCK):
            digest.update(block)
            bar.update(len(block))
    if digest.hexdigest() != wanted:
        path.unlink()
        found = digest.hexdigest()
        raise FetchError(
            f"{name}: MD5 is {found}; must be {wanted}; it is removed, the next run fetches it anew"
        )

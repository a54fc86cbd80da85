"""Sound files that were cut short: what libsndfile reads without a word, as if the recording ended there."""

import os
import struct
from typing import IO

# Writers that do not know the length beforehand, such as ffmpeg and sox into a pipe, claim one of at least so many bytes.
STREAMED = 0x7FFFF000
# Far more than any program writes before the sound; the search must end in a damaged file, too.
MAX_CHUNKS = 1000
OGG_HEADER, LARGEST_OGG_PAGE = 27, 65307


def missing_bytes(path: str | os.PathLike) -> int:
    """The number of bytes by which a WAV or Ogg file is shorter than it says; 0 where it is whole or of another form.

    A WAV file says it in its data chunk, unless it was written as a stream; an Ogg file in each page, of which the last is
    looked at: one that was cut exactly between two pages goes unnoticed. Of FLAC files libsndfile itself sees it.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        magic = stream.read(4)
        if magic in (b"RIFF", b"RIFX"):
            return _wav(stream, size, "<" if magic == b"RIFF" else ">")
        return _ogg(stream, size) if magic == b"OggS" else 0


def _wav(stream: IO[bytes], size: int, order: str) -> int:
    position = 12
    for _ in range(MAX_CHUNKS):
        stream.seek(position)
        head = stream.read(8)
        if len(head) < 8:
            break
        name, length = struct.unpack(f"{order}4sI", head)
        position += 8 + length + length % 2
        if name == b"data":
            return 0 if length >= STREAMED else max(0, position - length % 2 - size)
    return 0


def _ogg(stream: IO[bytes], size: int) -> int:
    start = max(0, size - 2 * LARGEST_OGG_PAGE)
    stream.seek(start)
    tail = stream.read()
    page = tail.rfind(b"OggS")
    if page < 0 or page + OGG_HEADER > len(tail):
        return OGG_HEADER
    segments = tail[page + OGG_HEADER :][: tail[page + OGG_HEADER - 1]]
    return max(0, page + OGG_HEADER + tail[page + OGG_HEADER - 1] + sum(segments) - len(tail))

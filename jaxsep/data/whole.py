"""Sound files of which a part is lost: what libsndfile reads without a word, as if the recording were shorter."""

import os
import struct
from typing import IO

# Writers that do not know the length beforehand, such as ffmpeg and sox into a pipe, claim one of at least so many bytes.
STREAMED = 0x7FFFF000
# Far more than any program writes before the sound; the search must end in a damaged file, too.
MAX_CHUNKS = 1000
OGG_HEADER, LARGEST_OGG_PAGE = 27, 65307
VORBIS, LONGEST_HEAD = b"\1vorbis", 64


def what_is_missing(path: str | os.PathLike, frames: int) -> str:
    """What a WAV or Ogg file says it holds and does not, as text; "" where it is whole or of another form.

    A WAV file says in its data chunk how many bytes follow, unless it was written as a stream. An Ogg file ends with a whole
    page, which for Vorbis says how many samples there are: libsndfile passes over pages that are damaged. A file that was cut
    exactly between two pages goes unnoticed. Of FLAC files libsndfile itself finds it all.

    Args:
        frames: the number of samples per channel that could be decoded.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        head = stream.read(LONGEST_HEAD)
        if head[:4] in (b"RIFF", b"RIFX"):
            lost = _wav(stream, size, "<" if head[:4] == b"RIFF" else ">")
        elif head[:4] == b"OggS":
            lost, samples = _ogg(stream, size)
            if not lost and VORBIS in head and frames < samples:
                return f"{frames:,} of {samples:,} samples can be decoded"
        else:
            return ""
        return f"{lost:,} bytes are missing" if lost else ""


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


def _ogg(stream: IO[bytes], size: int) -> tuple[int, int]:
    """(bytes missing of the last page, its position in samples)."""
    stream.seek(max(0, size - 2 * LARGEST_OGG_PAGE))
    tail = stream.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < OGG_HEADER:
        return OGG_HEADER - len(page), 0
    segments = page[OGG_HEADER - 1]
    length = OGG_HEADER + segments + sum(page[OGG_HEADER : OGG_HEADER + segments])
    return max(0, length - len(page)), struct.unpack_from("<q", page, 6)[0]

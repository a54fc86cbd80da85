"""Sound files: one in, a mono float32 signal out; or block by block, of any length; and back.

Sound files come from strangers. Whatever is wrong with one ends in a DataError of one line: which
file, what is wrong with it, and what would be right. Memory grows with the samples that are really
in a file, never with what its header claims. `missing_part` decides whether a file is whole.
"""

import hashlib
import math
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import soundfile
import soxr

from jaxsep.errors import DataError
from jaxsep.files import display

# Hz; of sound files, corpora and models. No recorder goes beyond, and nothing made of it is huge.
MAX_SAMPLE_RATE = 1_000_000
# Hz; of recordings. A damaged header can claim any rate, and resampling a sound from 1 Hz to 8 kHz
# would make 8,000 samples of each of its own.
MIN_SAMPLE_RATE = 1_000
# For the same reason: the largest ratio of the wanted rate to a sound's own.
MAX_UPSAMPLING = 200
# 32-bit integers written as floats are sound. What is louder is damaged: sums of it may overflow.
LOUDEST = 2.0**32
# Values that are decoded at a time.
BLOCK_VALUES = 1 << 20
# libsndfile's number of frames for a FLAC file whose header does not say it.
UNKNOWN_FRAMES = 2**63 - 1
# Programs that cannot know the length in advance, such as ffmpeg and sox writing into a pipe, claim
# a WAV data chunk of at least so many bytes.
STREAMED_BYTES = 0x7FFFF000
# Chunks of a WAV file that are looked at before its data: far more than any program writes.
MAX_CHUNKS = 1000
OGG_HEADER_BYTES, MAX_OGG_PAGE_BYTES = 27, 65307
VORBIS_MARK, VORBIS_MARK_WITHIN = b"\1vorbis", 64


def read_audio(path: str | os.PathLike, sample_rate: int) -> tuple[np.ndarray, int]:
    """Reads a sound file as one signal at the wanted rate.

    Several channels are averaged. A file at another rate is resampled (soxr, high quality), which
    changes its length to about frames · sample_rate / (rate of the file).

    Args:
        path: a file that libsndfile can read (WAV of any sample format, FLAC, Ogg, ...).
        sample_rate: Hz, wanted.

    Returns:
        (samples float32 [T] with T ≥ 1, number of channels of the file)

    Raises:
        DataError: the file is missing, no regular file, unreadable, cut short or damaged; its rate
            is not between MIN_SAMPLE_RATE and MAX_SAMPLE_RATE; it holds no sample, or one that is
            NaN, infinite or beyond ±2^32.
    """
    with _open(path, MIN_SAMPLE_RATE) as file:
        rate, channels, claimed = file.samplerate, file.channels, file.frames
        blocks = [
            block[:, 0] if channels == 1 else block.mean(axis=1, dtype=np.float32)
            for block in _blocks(path, file, max(1, BLOCK_VALUES // channels))
        ]
    with _reading(path):
        samples = np.concatenate(blocks)
        if missing := missing_part(path, samples.size, claimed):
            raise DataError(f"{display(path)}: is cut short or damaged ({missing})")
        if rate != sample_rate:
            samples = soxr.resample(samples, rate, sample_rate, quality="HQ")
    if not samples.size:
        raise DataError(
            f"{display(path)}: holds no samples at {sample_rate} Hz; at least one is needed"
        )
    return np.ascontiguousarray(samples, dtype=np.float32), channels


def audio_info(path: str | os.PathLike) -> tuple[int, int, int]:
    """(sample rate in Hz, channels, frames as the file's header claims) of a sound file.

    Raises:
        DataError: the file is missing, no regular file, unreadable, or its rate cannot be.
    """
    with _open(path) as file:
        return file.samplerate, file.channels, file.frames


def check_upsampling(rate: float, wanted: float, shown: str) -> None:
    """DataError where resampling from `rate` to `wanted` would exceed MAX_UPSAMPLING."""
    if wanted > rate * MAX_UPSAMPLING:
        least = math.ceil(wanted / MAX_UPSAMPLING)
        raise DataError(
            f"{shown}: its sample rate is {rate:g} Hz; "
            f"it must be at least {least} to become {wanted:g} Hz"
        )


def audio_blocks(path: str | os.PathLike, frames: int = 1 << 16) -> Iterator[np.ndarray]:
    """Reads a sound file block by block at its own rate: float32 [channels, at most `frames`].

    Raises:
        DataError: as `read_audio` when the damaged place is reached, but neither for the rate nor
            for a file that is cut short.
    """
    with _open(path) as file:
        for block in _blocks(path, file, frames):
            yield np.ascontiguousarray(block.T)


def file_sha256(path: str | os.PathLike) -> bytes:
    """The SHA-256 (32 bytes) of a file's content; DataError where it cannot be read."""
    with _reading(path), open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def write_wav(path: str | os.PathLike, samples: np.ndarray, sample_rate: int) -> None:
    """Writes `samples` [T] or [T, channels] as 32-bit float WAV, unscaled and unclipped.

    Parent folders are made.

    Raises:
        DataError: the file cannot be written.
    """
    content = np.asarray(samples, np.float32)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(os.fsencode(path), content, sample_rate, format="WAV", subtype="FLOAT")
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"{display(path)}: cannot be written ({error})") from error


def _open(path: str | os.PathLike, lowest_rate: int = 1) -> soundfile.SoundFile:
    with _reading(path):
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its other end
            raise DataError(f"{display(path)}: is no regular file")
        # Bytes, because soundfile encodes a str strictly and a file name need not be valid UTF-8.
        file = soundfile.SoundFile(os.fsencode(path))
    if not lowest_rate <= file.samplerate <= MAX_SAMPLE_RATE:
        file.close()
        raise DataError(
            f"{display(path)}: its sample rate is {file.samplerate:,} Hz; "
            f"must be between {lowest_rate:,} and {MAX_SAMPLE_RATE:,} Hz"
        )
    return file


def _blocks(
    path: str | os.PathLike, file: soundfile.SoundFile, frames: int
) -> Iterator[np.ndarray]:
    """The rest of an open file in blocks, each float32 [at most `frames`, channels]."""
    count = 0
    while True:
        with _reading(path):
            block = file.read(frames, dtype="float32", always_2d=True)
        if not len(block):
            break
        usable = (np.abs(block) <= LOUDEST).all(axis=1)
        if not usable.all():
            second = (count + int(np.argmin(usable))) / file.samplerate
            raise DataError(
                f"{display(path)}: holds NaN or infinite samples, the first at {second:.3f} s; "
                f"every sample must be within ±2^32"
            )
        count += len(block)
        yield block
    if not count:
        raise DataError(f"{display(path)}: holds no samples; at least one is needed")


@contextmanager
def _reading(path: str | os.PathLike) -> Iterator[None]:
    """Turns what goes wrong inside into a DataError that names the file."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{display(path)}: cannot be read as sound (no such file)") from error
    except (soundfile.SoundFileError, OSError, ValueError, TypeError, MemoryError) as error:
        texts = getattr(error, "error_string", ""), getattr(error, "strerror", ""), str(error)
        reason = next(filter(None, texts), type(error).__name__).splitlines()[-1].strip()
        raise DataError(f"{display(path)}: cannot be read as sound ({reason})") from error


# Is a file whole? libsndfile reads many damaged files without a word, as if they were shorter.


def missing_part(path: str | os.PathLike, decoded: int, claimed: int) -> str:
    """What a sound file claims to hold and does not, as text; "" where it is whole.

    A WAV file says in the header of its data chunk how many bytes follow, unless it was written as
    a stream. An Ogg file ends with a whole page, which for Vorbis says how many samples there are:
    libsndfile skips damaged pages. A cut exactly between two pages goes unnoticed. Of FLAC files
    libsndfile reports every damage itself. In all formats the header may claim more samples than
    can be decoded.

    Args:
        decoded: samples per channel that could be decoded.
        claimed: samples per channel that libsndfile takes from the header.

    Raises:
        OSError: the file cannot be read.
    """
    bytes_missing = samples_expected = 0
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        head = stream.read(VORBIS_MARK_WITHIN)
        if head[:4] in (b"RIFF", b"RIFX"):
            bytes_missing = _missing_of_wav(stream, size, "<" if head[:4] == b"RIFF" else ">")
        elif head[:4] == b"OggS":
            bytes_missing, last_sample = _missing_of_ogg(stream, size)
            samples_expected = last_sample if VORBIS_MARK in head else 0
    if bytes_missing:
        return f"{bytes_missing:,} bytes are missing"
    if decoded < samples_expected:
        return f"{decoded:,} of {samples_expected:,} samples can be decoded"
    if decoded < claimed != UNKNOWN_FRAMES:
        return f"{decoded:,} of {claimed:,} samples are there"
    return ""


def _missing_of_wav(stream: IO[bytes], size: int, byte_order: str) -> int:
    """Bytes that the data chunk of a WAV file of `size` bytes lacks."""
    position = 12
    for _ in range(MAX_CHUNKS):
        stream.seek(position)
        head = stream.read(8)
        if len(head) < 8:
            break
        name, length = struct.unpack(f"{byte_order}4sI", head)
        if name == b"data":
            return 0 if length >= STREAMED_BYTES else max(0, position + 8 + length - size)
        position += 8 + length + length % 2
    return 0


def _missing_of_ogg(stream: IO[bytes], size: int) -> tuple[int, int]:
    """(bytes that the last page of an Ogg file lacks, its position in samples)."""
    stream.seek(max(0, size - 2 * MAX_OGG_PAGE_BYTES))
    tail = stream.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < OGG_HEADER_BYTES:
        return OGG_HEADER_BYTES - len(page), 0
    segments = page[OGG_HEADER_BYTES - 1]
    lacing = page[OGG_HEADER_BYTES : OGG_HEADER_BYTES + segments]
    length = OGG_HEADER_BYTES + segments + sum(lacing)
    return max(0, length - len(page)), struct.unpack_from("<q", page, 6)[0]

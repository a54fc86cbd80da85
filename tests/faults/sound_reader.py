"""python sound_reader.py FOLDER EXAMPLES: reads so many damaged sound files of each format, in memory that cannot grow; prints
how many were read and refused. What libsndfile does wrong ends this process."""

import faulthandler
import resource
import sys
from pathlib import Path

import numpy as np
import soundfile
from fuzz import damaged, hunt

from jaxsep.data.audio import DataError, audio_blocks, audio_info, read_audio

FORMATS = [
    ("wav", "FLOAT"),
    ("wav", "PCM_16"),
    ("wav", "IMA_ADPCM"),
    ("flac", "PCM_16"),
    ("ogg", "VORBIS"),
    ("mp3", "MPEG_LAYER_III"),
]
FORMATS += [("aiff", "PCM_24"), ("w64", "PCM_16"), ("caf", "PCM_16"), ("au", "ULAW"), ("rf64", "PCM_16")]
GROWTH = 150 << 20  # bytes that reading a small file may take
SECONDS = 20


def check_all(folder: Path, examples: int) -> None:
    sound = 0.1 * np.random.default_rng(0).normal(size=4000)
    for number, (suffix, subtype) in enumerate(FORMATS):
        path = folder / f"{number}.{suffix}"
        soundfile.write(path, sound, 16000, format=suffix.upper(), subtype=subtype)

        def check(content: bytes, path: Path = path) -> str:
            path.write_bytes(content)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            outcomes = [attempt(read, path) for read in (whole, in_blocks)]
            faulthandler.cancel_dump_traceback_later()
            return outcomes[0]

        print(f"{suffix} {subtype}:", end=" ")
        hunt(examples, damaged(path.read_bytes()), check)


def attempt(read, path: Path) -> str:
    try:
        read(path)
    except DataError as error:
        assert str(path) in str(error), error
        return "refused"
    return "read"


def whole(path: Path) -> None:
    samples, channels = read_audio(path, 8000)
    assert samples.size and np.isfinite(samples).all() and channels >= 1


def in_blocks(path: Path) -> None:
    rate, channels, frames = audio_info(path)
    assert rate >= 1 and frames >= 0
    for block in audio_blocks(path):
        assert block.shape[0] == channels and np.isfinite(block).all()


def memory() -> tuple[int, int]:
    """(mapped bytes now, resident bytes at most so far)"""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return mapped, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    faulthandler.enable()
    mapped, before = memory()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (1 << 30), mapped + (1 << 30)))
    check_all(Path(sys.argv[1]), int(sys.argv[2]))
    grown = memory()[1] - before
    print(f"{grown:,} bytes more")
    assert grown <= GROWTH, grown

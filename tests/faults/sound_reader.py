"""python sound_reader.py FOLDER EXAMPLES: reads so many damaged sound files of each format.

In memory that cannot grow; prints how many were read and refused. What libsndfile does wrong ends
this process.
"""

import faulthandler
import resource
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile
from fuzz import damaged, hunt, np_noise

from jaxsep.data.audio import audio_blocks, audio_info, read_audio
from jaxsep.errors import DataError

FORMATS = [("wav", "FLOAT"), ("wav", "PCM_16"), ("wav", "IMA_ADPCM"), ("flac", "PCM_16")]
FORMATS += [("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III"), ("aiff", "PCM_24"), ("w64", "PCM_16")]
FORMATS += [("caf", "PCM_16"), ("au", "ULAW"), ("rf64", "PCM_16")]
GROWTH = 150 << 20  # bytes that reading a small file may take
SECONDS = 20


def check_all(folder: Path, examples: int) -> None:
    sound, counts = np_noise(4000), Counter()
    for number, (suffix, subtype) in enumerate(FORMATS):
        path = folder / f"{number}.{suffix}"
        soundfile.write(path, sound, 16000, format=suffix.upper(), subtype=subtype)

        def check(content: bytes, path: Path = path) -> str:
            path.write_bytes(content)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            outcomes = [refused_or_read(read, path) for read in (whole, in_blocks)]
            faulthandler.cancel_dump_traceback_later()
            return outcomes[0]

        print(f"{suffix} {subtype}:", end=" ")
        counts += hunt(examples, damaged(path.read_bytes()), check)
    assert counts["read"] > 0
    assert counts["refused"] > 0


def refused_or_read(read, path: Path) -> str:
    message = None
    try:
        read(path)
    except DataError as error:
        message = str(error)
    assert message is None or str(path) in message, message
    return "read" if message is None else "refused"


def whole(path: Path) -> None:
    samples, channels = read_audio(path, 8000)
    assert samples.size
    assert np.isfinite(samples).all()
    assert channels >= 1


def in_blocks(path: Path) -> None:
    rate, channels, frames = audio_info(path)
    assert rate >= 1
    assert frames >= 0
    for block in audio_blocks(path):
        assert block.shape[0] == channels
        assert np.isfinite(block).all()


def memory(name: str) -> int:
    """Bytes of this process: 'VmSize' mapped now, 'VmHWM' resident at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    faulthandler.enable()
    before, most = memory("VmHWM"), memory("VmSize") + (1 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    check_all(Path(sys.argv[1]), int(sys.argv[2]))
    grown = memory("VmHWM") - before
    print(f"{grown:,} bytes more")
    assert grown <= GROWTH, grown

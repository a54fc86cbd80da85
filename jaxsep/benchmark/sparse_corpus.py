"""Packed corpora of many hours that take no space on disk."""

from pathlib import Path

import numpy as np

from jaxsep.data.levels import frame_size
from jaxsep.data.packs.format import AUDIO, write_index

RECORDING_SECONDS = 6.0


def make_corpus(folder: Path, hours: float, sample_rate: int) -> None:
    """Write a packed corpus whose index is as large as a real one's, and whose audio is a hole."""
    count = round(hours * 3600 / RECORDING_SECONDS)
    length = round(RECORDING_SECONDS * sample_rate)
    frames = -(-length // frame_size(sample_rate))
    names = [f"speaker{n:04d}" for n in range(1000)]
    folder.mkdir()
    with open(folder / AUDIO, "wb") as audio:
        audio.truncate(4 * count * length)
    write_index(
        folder,
        name="speech",
        layout="tree",
        sample_rate=sample_rate,
        synthetic=True,
        fingerprint="0" * 64,
        audio_sha256="0" * 64,
        roles=[],
        left_out={},
        class_names=names,
        class_groups=["speech"] * len(names),
        paths=[f"train/{names[n % len(names)]}/{n:07d}.flac" for n in range(count)],
        offsets=np.arange(count) * length,
        lengths=np.full(count, length),
        classes=np.arange(count, dtype=np.int32) % len(names),
        splits=np.zeros(count, np.int8),
        contents=np.zeros((count, 1, 32), np.uint8),
        energies=np.ones(count * frames, np.float32),
        energy_offsets=np.arange(count + 1) * frames,
        snr=np.zeros(count, np.float32),
    )

"""Packed corpora of many hours that take no space on disk."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.data.packs.corpus import KIND, frame_size
from jaxsep.data.packs.format import AUDIO, finish_pack, pack_paths

RECORDING_SECONDS = 6.0


def make_corpus(folder: Path, hours: float, sample_rate: int) -> None:
    """Write a packed corpus whose index is as large as a real one's, and whose audio is a hole."""
    count = round(hours * 3600 / RECORDING_SECONDS)
    length = round(RECORDING_SECONDS * sample_rate)
    frames = -(-length // frame_size(sample_rate))
    names = [f"speaker{n:04d}" for n in range(1000)]
    arrays: dict[str, np.ndarray] = {
        "offsets": np.arange(count, dtype=np.int64) * length,
        "lengths": np.full(count, length, np.int64),
        "classes": np.arange(count, dtype=np.int32) % len(names),
        "splits": np.zeros(count, np.int8),
        "paths": pack_paths([f"train/{names[n % len(names)]}/{n:07d}.flac" for n in range(count)]),
        "energies": np.ones(count * frames, np.float32),
        "energy_offsets": np.arange(count + 1, dtype=np.int64) * frames,
        "contents": np.zeros((count, 32), np.uint8),
    }
    header: dict[str, Any] = {
        "kind": KIND,
        "name": "speech",
        "layout": "tree",
        "sample_rate": sample_rate,
        "synthetic": True,
        "fingerprint": "0" * 64,
        "audio_sha256": "0" * 64,
        "left_out": [],
        "class_names": names,
        "class_groups": ["speech"] * len(names),
    }
    folder.mkdir()
    with open(folder / AUDIO, "wb") as audio:
        audio.truncate(4 * count * length)
        audio.seek(4 * count * length)
        finish_pack(folder, audio, header, arrays)

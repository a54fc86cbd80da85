"""Packed corpora of many hours that take no space on disk."""

from pathlib import Path

import numpy as np

from jaxsep.data.packs.corpus import KIND, frame_size
from jaxsep.data.packs.format import AUDIO, finish_pack, pack_paths


def make_corpus(folder: Path, hours: int, sample_rate: int = 8000) -> Path:
    """Write a packed corpus of recordings of 6 s whose index is as large as a real one's, and whose
    audio is a hole; returns the folder."""
    count, length = hours * 600, 6 * sample_rate
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
    header = {
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
    folder.mkdir(exist_ok=True)
    with open(folder / AUDIO, "wb") as audio:
        audio.truncate(4 * count * length)
        audio.seek(4 * count * length)
        finish_pack(folder, audio, header, arrays)
    return folder

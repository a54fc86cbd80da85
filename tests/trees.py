"""Small datasets in the published layouts, in a temporary folder: real files, made-up sounds."""

import csv
from pathlib import Path

import numpy as np
import soundfile

RATE = 8000


def noise(seed: int, samples: int) -> np.ndarray:
    """White noise, standard deviation 0.1, float64 [samples]."""
    return 0.1 * np.random.default_rng(seed).normal(size=samples)


def write(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str = "FLOAT") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype=subtype)


def write_tree(
    root: Path,
    classes: int = 3,
    clips: int = 2,
    seconds: float = 1.5,
    splits=("train", "val", "test"),
) -> Path:
    """root/{train,val,test}/c0, c1, .../0.wav, 1.wav, ..."""
    seed = 0
    for split in splits:
        for k in range(classes):
            for clip in range(clips):
                seed += 1
                write(root / split / f"c{k}" / f"{clip}.wav", noise(seed, round(seconds * RATE)))
    return root


def write_esc50(
    root: Path, entries: list[tuple[int, int, str, str, str]], seconds: float = 0.5
) -> Path:
    """ESC-50 with the entries (fold, target, category, src_file, take); columns as published."""
    (root / "meta").mkdir(parents=True)
    with open(root / "meta" / "esc50.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["filename", "fold", "target", "category", "esc10", "src_file", "take"])
        for seed, (fold, target, category, source, take) in enumerate(entries):
            name = f"{fold}-{source}-{take}-{target}.wav"
            writer.writerow([name, fold, target, category, "False", source, take])
            write(root / "audio" / name, noise(seed, round(seconds * RATE)))
    return root


# (split folder, utterance of s1, its level, utterance of s2, its level, samples). 011 and 20a speak
# in several mixtures.
WSJ0 = (
    ("tr", "011a0101", "1.8", "20aa010b", "-1.8", 9000),
    ("tr", "011a0101", "0.5", "22ga0102", "-0.5", 12000),
    ("tr", "22ga0102", "2.1", "011a0102", "-2.1", 8000),
    ("cv", "050a0501", "0.3", "051a0502", "-0.3", 10000),
    ("tt", "440c0201", "1.0", "441c0202", "-1.0", 11000),
    ("tt", "441c0202", "1.5", "442c0203", "-1.5", 7000),
    ("tt", "442c0203", "0.1", "443c0204", "-0.1", 9500),
)


def write_wsj0(root: Path) -> Path:
    """WSJ0-2mix as published: root/2speakers/wav8k/min/{tr,cv,tt}/{mix,s1,s2}, 16 bit."""
    for seed, (split, first, level1, second, level2, samples) in enumerate(WSJ0):
        name = f"{first}_{level1}_{second}_{level2}.wav"
        write_roles(root / "2speakers" / "wav8k" / "min" / split, name, seed, samples)
    return root


def write_roles(
    folder: Path, name: str, seed: int, samples: int, rate: int = RATE, noisy: bool = False
) -> None:
    """mix, s1, s2 (and with `noisy` mix_clean, mix_both and noise in place of mix)."""
    s1, s2, background = (np.round(noise(3 * seed + k, samples) * 2**15) / 2**15 for k in range(3))
    s2, mix = 0.5 * s2, s1 + 0.5 * s2
    signals = {"s1": s1, "s2": s2, "mix_clean" if noisy else "mix": mix}
    if noisy:
        signals |= {"noise": background, "mix_both": mix + background}
    for role, signal in signals.items():
        write(folder / role / name, signal, rate, subtype="PCM_16")


LIBRI = {
    "train-100": ("1001-134707-0031_3214-167607-0012", "3214-167607-0013_40-222-0001"),
    "train-360": ("1002-134707-0000_1001-134707-0005",),
    "dev": ("84-121123-0000_174-50561-0001",),
    "test": ("61-70968-0000_237-126133-0002", "237-126133-0003_61-70968-0001"),
}


def write_libri2mix(root: Path, rate: int = RATE) -> Path:
    """Libri2Mix as published: root/wav8k/min/{train-100,train-360,dev,test}/{mix_clean,...}."""
    seed = 0
    for split, stems in LIBRI.items():
        for stem in stems:
            seed += 1
            folder = root / f"wav{rate // 1000}k" / "min" / split
            write_roles(folder, f"{stem}.wav", seed, 8000 + 500 * seed, rate, noisy=True)
    return root

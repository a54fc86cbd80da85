"""A small corpus of generated sound: what runs on a fresh machine, without any recordings.

It replaces no result, and everything made with it says that it is synthetic. Speech: a voiced
source with a wandering pitch through four formants that move from vowel to vowel, noise bursts for
consonants, pauses; a speaker is a pitch, a length of the vocal tract and a rate. Environment: ten
classes that differ in their structure in time and frequency (steady noise, tones, sweeps, clicks,
decays), with variations from one recording to the next.
"""

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxsep.data.audio import write_wav
from jaxsep.data.layouts import SYNTHETIC_MARKER
from jaxsep.errors import DataError
from jaxsep.files import atomic_folder, display, read_json

DEMO_VERSION = 1
SECONDS = 4.0
LOWEST_RATE = 4000  # Hz
SPEAKERS = {"train": 12, "val": 4, "test": 4}
UTTERANCES = {"train": 5, "val": 3, "test": 3}
RECORDINGS = {"train": 6, "val": 3, "test": 3}
# Formants, Hz, of the vowels in heed, head, had, hod, hood, heard: rounded means of men, after
# Peterson and Barney, "Control methods used in a study of the vowels", 1952.
VOWELS = np.array(
    [
        [270, 2290, 3010, 3600],
        [530, 1840, 2480, 3500],
        [660, 1720, 2410, 3500],
        [730, 1090, 2440, 3400],
        [440, 1020, 2240, 3300],
        [490, 1350, 1690, 3300],
    ],
    float,
)
BANDWIDTHS = np.array([80.0, 110.0, 160.0, 220.0])  # Hz
# Times a second at which pitch and formants are set; they are interpolated between.
CONTROL_RATE = 100.0

Rng = np.random.Generator


def make_demo(folder: str | os.PathLike, *, sample_rate: int = 8000, seed: int = 0) -> None:
    """Write the corpus as two trees, folder/{speech,environment}/{train,val,test}/CLASS/*.wav.

    The same arguments give the same samples. A folder that holds the corpus of these arguments is
    left as it is. A marker file in the folder and in both trees says that the sound is synthetic.

    Args:
      folder: is made, once everything is written.
      sample_rate: Hz, at least LOWEST_RATE.

    Raises:
      DataError: the folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    marker = {"synthetic": True, "version": DEMO_VERSION, "sample_rate": sample_rate, "seed": seed}
    if folder.is_dir() and os.listdir(folder):
        try:
            if read_json(folder / SYNTHETIC_MARKER) == marker:
                return
        except (OSError, ValueError):
            pass
        raise DataError(
            f"{display(folder)}: holds something else than this synthetic corpus; "
            "must be empty or missing"
        )
    try:
        with atomic_folder(folder, complete=SYNTHETIC_MARKER) as temporary:
            for split in SPEAKERS:
                _write_speech(temporary / "speech" / split, split, sample_rate, seed)
                _write_environment(temporary / "environment" / split, split, sample_rate, seed)
            for place in (temporary, temporary / "speech", temporary / "environment"):
                (place / SYNTHETIC_MARKER).write_text(json.dumps(marker))
    except OSError as error:
        raise DataError(
            f"{display(folder)}: cannot be written ({error.strerror or error})"
        ) from error


def _rng(seed: int, *place: str | int) -> Rng:
    """A generator of its own for each thing made, so that one more of a kind changes no other."""
    return np.random.default_rng([seed, *(zlib.crc32(str(part).encode()) for part in place)])


def _write_speech(folder: Path, split: str, rate: int, seed: int) -> None:
    for speaker in range(SPEAKERS[split]):
        voice = _rng(seed, "voice", split, speaker)
        # Low and high voices in turn, so that each split has both.
        pitch = voice.uniform(90, 140) if speaker % 2 else voice.uniform(170, 250)
        tract = voice.uniform(0.92, 1.04) if speaker % 2 else voice.uniform(1.08, 1.22)
        tempo = voice.uniform(3.0, 4.5)
        for take in range(UTTERANCES[split]):
            rng = _rng(seed, "speech", split, speaker, take)
            samples = speech(rng, rate, pitch=pitch, tract=tract, tempo=tempo)
            write_wav(folder / f"{split}{speaker:02d}" / f"{take:02d}.wav", samples, rate)


def _write_environment(folder: Path, split: str, rate: int, seed: int) -> None:
    time = np.arange(int(SECONDS * rate)) / rate
    for name, make in ENVIRONMENTS.items():
        for take in range(RECORDINGS[split]):
            samples = _level(make(_rng(seed, name, split, take), time, rate))
            write_wav(folder / name / f"{take:02d}.wav", samples, rate)


def speech(rng: Rng, rate: int, *, pitch: float, tract: float, tempo: float) -> np.ndarray:
    """One utterance, float32 [4 s].

    Args:
      pitch: mean, Hz.
      tract: factor of the formants.
      tempo: syllables a second.
    """
    length = int(SECONDS * rate)
    frames = int(SECONDS * CONTROL_RATE) + 1
    formants, voiced, bursts = np.zeros((frames, 4)), np.zeros(frames), np.zeros(length)
    start = int(rng.uniform(0.0, 0.2) * CONTROL_RATE)
    vowel = VOWELS[rng.integers(len(VOWELS))]
    while start < frames:
        count = max(6, int(CONTROL_RATE * rng.uniform(0.7, 1.3) / tempo))
        syllable = np.arange(start, min(start + count, frames))
        progress = (syllable - start) / count
        target = VOWELS[rng.integers(len(VOWELS))] * rng.uniform(0.95, 1.05, 4)
        glide = np.minimum(1, 2.5 * progress)[:, None]
        formants[syllable] = tract * (vowel + (target - vowel) * glide)
        loudness = np.sin(np.pi * np.minimum(1, progress / 0.85)) ** 0.7
        voiced[syllable] = loudness * rng.uniform(0.6, 1.0)
        if rng.random() < 0.6:
            _add_consonant(rng, bursts, int(start / CONTROL_RATE * rate), rate)
        vowel, start = target, start + count
        if rng.random() < 0.15:
            start += int(CONTROL_RATE * rng.uniform(0.15, 0.4))
    time = np.arange(frames) / CONTROL_RATE
    knots = np.arange(0, SECONDS + 1, 0.4)
    wander = np.interp(time, knots, rng.normal(0, 0.08, int((SECONDS + 1) / 0.4) + 1))
    vibrato, jitter = 0.015 * np.sin(2 * np.pi * 5.5 * time), rng.normal(0, 0.006, frames)
    # The pitch falls over the utterance.
    f0 = pitch * (1.08 - 0.04 * time + wander + vibrato + jitter)
    return _level(_voice(f0, formants, voiced, rate, length) + bursts)


def _voice(
    f0: np.ndarray, formants: np.ndarray, voiced: np.ndarray, rate: int, length: int
) -> np.ndarray:
    """Harmonics of f0 [frames], each as loud as the four resonances let it be."""
    time, control = np.arange(length) / rate, np.arange(f0.size) / CONTROL_RATE
    phase = _phase(np.interp(time, control, f0), rate)
    out = np.zeros(length)
    for harmonic in range(1, int(0.48 * rate / f0.min()) + 1):
        frequency = harmonic * f0[:, None]
        resonances = 1 / (1 + ((frequency - formants) / BANDWIDTHS) ** 2)
        gain = voiced * (resonances @ np.array([1.0, 0.7, 0.4, 0.25])) / harmonic**0.5
        gain *= frequency[:, 0] < 0.48 * rate
        out += np.interp(time, control, gain) * np.sin(harmonic * phase)
    return out


def _add_consonant(rng: Rng, out: np.ndarray, start: int, rate: int) -> None:
    """Add 40 to 120 ms of high noise."""
    count = min(int(rng.uniform(0.04, 0.12) * rate), out.size - start)
    if count > 8:
        noise = _band(rng, count, rate, rng.uniform(0.25, 0.32) * rate, 0.49 * rate)
        out[start : start + count] += rng.uniform(0.05, 0.2) * noise * np.hanning(count)


def _level(samples: np.ndarray) -> np.ndarray:
    """Peak 0.5, float32."""
    return (0.5 / max(np.abs(samples).max(), 1e-9) * samples).astype(np.float32)


def _phase(frequency: np.ndarray, rate: int) -> np.ndarray:
    """Phase, radians, of a tone whose frequency (Hz) changes from sample to sample."""
    return 2 * np.pi * np.cumsum(frequency) / rate


def _band(rng: Rng, count: int, rate: int, low: float, high: float) -> np.ndarray:
    """Gaussian noise between two frequencies (Hz), standard deviation 1."""
    spectrum = np.fft.rfft(rng.normal(size=count))
    frequency = np.fft.rfftfreq(count, 1 / rate)
    spectrum[(frequency < low) | (frequency > high)] = 0
    noise = np.fft.irfft(spectrum, count)
    return noise / max(noise.std(), 1e-9)


def _events(
    rng: Rng, count: int, starts: np.ndarray, shape: Callable[[], np.ndarray]
) -> np.ndarray:
    """The sum [count] of short sounds, each made anew at one of the `starts` (samples)."""
    out = np.zeros(count)
    for start in starts[starts < count].astype(int):
        sound = shape()[: count - start]
        out[start : start + sound.size] += rng.uniform(0.5, 1.0) * sound
    return out


# Each class of environmental sound is a function of (generator, time [T] in s, rate in Hz).


def rain(rng: Rng, time: np.ndarray, rate: int) -> np.ndarray:
    falls = rng.random(time.size) < rng.uniform(0.005, 0.02)
    drops = np.where(falls, rng.exponential(3, time.size), 0)
    return _band(rng, time.size, rate, rng.uniform(0.1, 0.2) * rate, 0.5 * rate) + drops


def wind(rng: Rng, time: np.ndarray, rate: int) -> np.ndarray:
    gusts = 1 + 0.8 * np.sin(2 * np.pi * rng.uniform(0.2, 0.6) * time + rng.uniform(0, 6))
    return gusts * _band(rng, time.size, rate, 20, rng.uniform(200, 400))


def siren(rng: Rng, time: np.ndarray, rate: int) -> np.ndarray:
    middle, width = rng.uniform(900, 1300), rng.uniform(250, 450)
    phase = _phase(middle + width * np.sin(2 * np.pi * rng.uniform(0.3, 2.0) * time), rate)
    return np.sin(phase) + 0.3 * np.sin(2 * phase)


def clock_tick(rng: Rng, time: np.ndarray, rate: int) -> np.ndarray:
    pitch, decay = rng.uniform(1800, 3200), rng.uniform(0.004, 0.01)
    tick = np.arange(int(0.06 * rate)) / rate
    starts = np.arange(rng.uniform(0, 0.3), SECONDS, rng.uniform(0.25, 0.5)) * rate
    sound = np.sin(2 * np.pi * pitch * tick) * np.exp(-tick / decay)
    return _events(rng, time.size, starts, lambda: sound)


def engine(rng: Rng, time: np.ndarray, rate: int) -> np.ndarray:
    speed = rng.uniform(25, 60)
    change = 0.1 * np.sin(2 * np.pi * rng.uniform(0.1, 0.4) * time + rng.uniform(0, 6))
    phase = _phase(speed * (1 + change), rate)
    tones = sum(np.sin(k * phase + rng.uniform(0, 6)) / k**0.7 for k in range(1, 9))
    return tones + 0.2 * _band(rng, time.size, rate, 30, 500)


def birds(rng: Rng, time: np.ndarray, rate: int) -> np.ndarray:
    low, high = 0.27 * rate, 0.46 * rate

    def chirp() -> np.ndarray:
        count = int(rng.uniform(0.05, 0.15) * rate)
        sweep = np.linspace(rng.uniform(low, high), rng.uniform(low, high), count)
        return np.sin(_phase(sweep, rate)) * np.hanning(count)

    return _events(rng, time.size, rng.uniform(0, SECONDS, rng.integers(10, 25)) * rate, chirp)


def knocks(rng: Rng, time: np.ndarray, rate: int) -> np.ndarray:
    pitch, knock = rng.uniform(90, 180), np.arange(int(0.15 * rate)) / rate
    groups = np.arange(rng.uniform(0, 0.4), SECONDS, rng.uniform(0.9, 1.4))[:, None]
    starts = (groups + rng.uniform(0.14, 0.22) * np.arange(rng.integers(2, 5))).ravel() * rate
    sound = np.sin(2 * np.pi * pitch * knock) * np.exp(-knock / 0.03)
    return _events(rng, time.size, starts, lambda: sound)


def bell(rng: Rng, time: np.ndarray, rate: int) -> np.ndarray:
    pitch, ring = rng.uniform(400, 800), np.arange(int(2.0 * rate)) / rate
    partials = [
        level * np.sin(2 * np.pi * partial * pitch * ring) * np.exp(-ring * partial / 0.7)
        for partial, level in ((1.0, 1.0), (2.0, 0.6), (2.76, 0.5), (4.07, 0.3))
        if partial * pitch < 0.48 * rate
    ]
    strike = np.sum(partials, axis=0)
    starts = np.arange(rng.uniform(0, 0.5), SECONDS, rng.uniform(0.8, 1.6)) * rate
    return _events(rng, time.size, starts, lambda: strike)


def crackle(rng: Rng, time: np.ndarray, rate: int) -> np.ndarray:
    def crack() -> np.ndarray:
        count = int(rng.uniform(0.002, 0.02) * rate)
        decay = np.exp(-np.arange(count) / (0.3 * count))
        return rng.exponential(0.5) * rng.normal(size=count) * decay

    return _events(rng, time.size, rng.uniform(0, SECONDS, rng.integers(60, 140)) * rate, crack)


def insects(rng: Rng, time: np.ndarray, rate: int) -> np.ndarray:
    trill = np.maximum(0, np.sin(2 * np.pi * rng.uniform(15, 30) * time)) ** 2
    return trill * np.sin(2 * np.pi * rng.uniform(0.38, 0.46) * rate * time)


ENVIRONMENTS: dict[str, Callable[[Rng, np.ndarray, int], np.ndarray]] = {
    make.__name__: make
    for make in (bell, birds, clock_tick, crackle, engine, insects, knocks, rain, siren, wind)
}

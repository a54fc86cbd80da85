"""A small corpus of generated sound: what runs on a fresh machine, without any recordings.

It replaces no result, and everything made with it says that it is synthetic. A speaker is a pitch,
a length of the vocal tract and a rate of syllables.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from jaxsep.data.audio import write_wav
from jaxsep.data.layouts import SYNTHETIC_MARKER
from jaxsep.errors import DataError
from jaxsep.files import atomic_folder, display

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
    ]
)
BANDWIDTHS = np.array([80.0, 110.0, 160.0, 220.0])  # Hz
# Times a second at which pitch and formants are set; they are interpolated between.
CONTROL_RATE = 100.0
# Kinds of sound that differ in their structure in time and frequency.
ENVIRONMENTS = (
    *("bell", "birds", "clock_tick", "crackle", "engine"),
    *("insects", "knocks", "rain", "siren", "wind"),
)

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
    about = {"synthetic": True, "version": DEMO_VERSION, "sample_rate": sample_rate, "seed": seed}
    marker = json.dumps(about)
    if folder.is_dir() and any(folder.iterdir()):
        present = folder / SYNTHETIC_MARKER
        if present.is_file() and present.read_bytes() == marker.encode():
            return
        raise DataError(
            f"{display(folder)}: holds something else than this synthetic corpus; "
            "must be empty or missing"
        )
    try:
        with atomic_folder(folder, complete=SYNTHETIC_MARKER) as temporary:
            for path, samples in _recordings(sample_rate, seed):
                write_wav(temporary / path, samples, sample_rate)
            for place in (temporary, temporary / "speech", temporary / "environment"):
                (place / SYNTHETIC_MARKER).write_text(marker)
    except OSError as error:
        raise DataError(
            f"{display(folder)}: cannot be written ({error.strerror or error})"
        ) from error


def _recordings(rate: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """All recordings, as (path, samples)."""

    def rng(*place: str | int) -> Rng:
        # One for each thing made, so that one more of a kind changes no other.
        return np.random.default_rng([seed, *(zlib.crc32(str(part).encode()) for part in place)])

    for split in SPEAKERS:
        for speaker in range(SPEAKERS[split]):
            voice = rng("voice", split, speaker)
            # Low and high voices in turn, so that each split has both.
            pitch = voice.uniform(90, 140) if speaker % 2 else voice.uniform(170, 250)
            tract = voice.uniform(0.92, 1.04) if speaker % 2 else voice.uniform(1.08, 1.22)
            tempo = voice.uniform(3.0, 4.5)
            for take in range(UTTERANCES[split]):
                samples = speech(rng("speech", split, speaker, take), rate, pitch, tract, tempo)
                yield f"speech/{split}/{split}{speaker:02d}/{take:02d}.wav", _level(samples)
        for kind in ENVIRONMENTS:
            for take in range(RECORDINGS[split]):
                samples = environment(rng(kind, split, take), rate, kind)
                yield f"environment/{split}/{kind}/{take:02d}.wav", _level(samples)


def _level(samples: np.ndarray) -> np.ndarray:
    """Peak 0.5, float32."""
    return (0.5 / max(np.abs(samples).max(), 1e-9) * samples).astype(np.float32)


def _sine(frequency: float, time: np.ndarray, phase: float = 0.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * time + phase)


def _phase(frequency: np.ndarray, rate: int) -> np.ndarray:
    """Phase, radians, of a tone whose frequency (Hz) changes from sample to sample."""
    return 2 * np.pi * np.cumsum(frequency) / rate


def _band(rng: Rng, rate: int, count: int, low: float, high: float) -> np.ndarray:
    """Gaussian noise between two frequencies (Hz), standard deviation 1."""
    spectrum = np.fft.rfft(rng.normal(size=count))
    frequency = np.fft.rfftfreq(count, 1 / rate)
    spectrum[(frequency < low) | (frequency > high)] = 0
    noise = np.fft.irfft(spectrum, count)
    return noise / max(noise.std(), 1e-9)


def speech(rng: Rng, rate: int, pitch: float, tract: float, tempo: float) -> np.ndarray:
    """One utterance [4 s]: a voice with a wandering pitch through formants that move from vowel to
    vowel, noise bursts for consonants, pauses.

    Args:
      pitch: mean, Hz.
      tract: factor of the formants.
      tempo: syllables a second.
    """
    time = np.arange(int(SECONDS * rate)) / rate
    control = np.arange(int(SECONDS * CONTROL_RATE) + 1) / CONTROL_RATE
    formants, voiced = np.zeros((control.size, 4)), np.zeros(control.size)
    bursts = np.zeros(time.size)
    start = int(rng.uniform(0.0, 0.2) * CONTROL_RATE)
    vowel = VOWELS[rng.integers(len(VOWELS))]
    while start < control.size:
        count = max(6, int(CONTROL_RATE * rng.uniform(0.7, 1.3) / tempo))
        syllable = slice(start, start + count)
        progress = np.arange(count)[: control.size - start] / count
        target = VOWELS[rng.integers(len(VOWELS))] * rng.uniform(0.95, 1.05, 4)
        glide = np.minimum(1, 2.5 * progress)[:, None]
        formants[syllable] = tract * (vowel + (target - vowel) * glide)
        loudness = np.sin(np.pi * np.minimum(1, progress / 0.85)) ** 0.7
        voiced[syllable] = loudness * rng.uniform(0.6, 1.0)
        if rng.random() < 0.6:
            burst = bursts[int(start / CONTROL_RATE * rate) :][
                : int(rng.uniform(0.04, 0.12) * rate)
            ]
            if burst.size > 8:
                noise = _band(rng, rate, burst.size, rng.uniform(0.25, 0.32) * rate, 0.49 * rate)
                burst += rng.uniform(0.05, 0.2) * noise * np.hanning(burst.size)
        vowel, start = target, start + count
        if rng.random() < 0.15:
            start += int(CONTROL_RATE * rng.uniform(0.15, 0.4))
    knots = np.arange(0, SECONDS + 1, 0.4)
    wander = np.interp(control, knots, rng.normal(0, 0.08, knots.size))
    vibrato, jitter = 0.015 * _sine(5.5, control), rng.normal(0, 0.006, control.size)
    # The pitch falls over the utterance.
    f0 = pitch * (1.08 - 0.04 * control + wander + vibrato + jitter)
    phase, voice = _phase(np.interp(time, control, f0), rate), np.zeros(time.size)
    # Each harmonic is as loud as the four resonances let it be.
    for harmonic in range(1, int(0.48 * rate / f0.min()) + 1):
        frequency = harmonic * f0[:, None]
        resonances = 1 / (1 + ((frequency - formants) / BANDWIDTHS) ** 2)
        gain = voiced * (resonances @ np.array([1.0, 0.7, 0.4, 0.25])) / harmonic**0.5
        gain *= frequency[:, 0] < 0.48 * rate
        voice += np.interp(time, control, gain) * np.sin(harmonic * phase)
    return voice + bursts


def environment(rng: Rng, rate: int, kind: str) -> np.ndarray:
    """One recording [4 s] of a kind of sound, one of ENVIRONMENTS."""
    time, uniform = np.arange(int(SECONDS * rate)) / rate, rng.uniform
    band = partial(_band, rng, rate, time.size)

    def events(starts: np.ndarray, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The sum of short sounds, each made anew at one of the `starts` (s)."""
        out = np.zeros(time.size)
        for start in (starts * rate)[starts * rate < out.size].astype(int):
            sound = make()[: out.size - start]
            out[start : start + sound.size] += uniform(0.5, 1.0) * sound
        return out

    if kind == "rain":
        falls = rng.random(time.size) < uniform(0.005, 0.02)
        drops = np.where(falls, rng.exponential(3, time.size), 0)
        return band(uniform(0.1, 0.2) * rate, 0.5 * rate) + drops
    if kind == "wind":
        gusts = 1 + 0.8 * _sine(uniform(0.2, 0.6), time, uniform(0, 6))
        return gusts * band(20, uniform(200, 400))
    if kind == "siren":
        middle, width = uniform(900, 1300), uniform(250, 450)
        phase = _phase(middle + width * _sine(uniform(0.3, 2.0), time), rate)
        return np.sin(phase) + 0.3 * np.sin(2 * phase)
    if kind == "engine":
        speed = uniform(25, 60)
        phase = _phase(speed * (1 + 0.1 * _sine(uniform(0.1, 0.4), time, uniform(0, 6))), rate)
        tones = [np.sin(k * phase + uniform(0, 6)) / k**0.7 for k in range(1, 9)]
        return sum(tones) + 0.2 * band(30, 500)
    if kind == "insects":
        trill = np.maximum(0, _sine(uniform(15, 30), time)) ** 2
        return trill * np.sin(2 * np.pi * uniform(0.38, 0.46) * rate * time)
    if kind == "clock_tick":
        tick = time[: int(0.06 * rate)]
        sound = _sine(uniform(1800, 3200), tick) * np.exp(-tick / uniform(0.004, 0.01))
        starts = np.arange(uniform(0, 0.3), SECONDS, uniform(0.25, 0.5))
        return events(starts, lambda: sound)
    if kind == "knocks":
        knock = time[: int(0.15 * rate)]
        sound = _sine(uniform(90, 180), knock) * np.exp(-knock / 0.03)
        groups = np.arange(uniform(0, 0.4), SECONDS, uniform(0.9, 1.4))[:, None]
        starts = (groups + uniform(0.14, 0.22) * np.arange(rng.integers(2, 5))).ravel()
        return events(starts, lambda: sound)
    if kind == "bell":
        pitch, ring = uniform(400, 800), time[: int(2.0 * rate)]
        partials = [
            level * np.sin(2 * np.pi * partial * pitch * ring) * np.exp(-ring * partial / 0.7)
            for partial, level in ((1.0, 1.0), (2.0, 0.6), (2.76, 0.5), (4.07, 0.3))
            if partial * pitch < 0.48 * rate
        ]
        strike = np.sum(partials, axis=0)
        starts = np.arange(uniform(0, 0.5), SECONDS, uniform(0.8, 1.6))
        return events(starts, lambda: strike)
    if kind == "birds":
        low, high = 0.27 * rate, 0.46 * rate

        def chirp() -> np.ndarray:
            count = int(uniform(0.05, 0.15) * rate)
            sweep = np.linspace(uniform(low, high), uniform(low, high), count)
            return np.sin(_phase(sweep, rate)) * np.hanning(count)

        return events(uniform(0, SECONDS, rng.integers(10, 25)), chirp)

    def crack() -> np.ndarray:
        count = int(uniform(0.002, 0.02) * rate)
        decay = np.exp(-np.arange(count) / (0.3 * count))
        return rng.exponential(0.5) * rng.normal(size=count) * decay

    return events(uniform(0, SECONDS, rng.integers(60, 140)), crack)  # crackle

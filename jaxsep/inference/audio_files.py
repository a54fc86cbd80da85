"""A recording on disk -> a folder with a file for each source, read and written piece by piece, complete or not at all."""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from jaxsep.data.audio import audio_blocks, audio_info, check_upsampling
from jaxsep.errors import DataError
from jaxsep.files import display
from jaxsep.inference.chunks import ROUNDING, mixture_consistent
from jaxsep.inference.separator import Separator

# An estimate that stays this far below the mixture is taken for one of no source. Training asks of the estimate of an absent
# source to fall to −30 dB, where its loss flattens, and mixes sources that are there within ±30 dB.
SILENT_DB = -30.0
OUTPUT = re.compile(r"source\d+\.(wav|flac)")
WAV_BYTES = 0xFFFF_0000  # the sizes in a WAV file have 32 bits; beyond, RF64 has the same with 64
FLAC_CHANNELS, FLAC_RATE = 8, 655_350


@dataclass(frozen=True)
class Options:
    """What is written.

    channels: 'mix', averaged, or 'each', separated one by one, and as many in the file of every source. file_format: 'wav',
    32-bit float, or 'flac', 16 bit. consistent: the sources add up to the mixture. keep_silent: also sources that are not
    there. force: in place of what was written before.
    """

    channels: str = "mix"
    file_format: str = "wav"
    consistent: bool = False
    keep_silent: bool = False
    force: bool = False


class Levels:
    """Mean, power around the mean, and peak of signals [...,T] that come in blocks; and their power in every second."""

    def __init__(self, rate: int) -> None:
        self.samples, self.peak = 0, 0.0
        self._rate = rate
        self._sums: list[
            np.ndarray
        ] = []  # of a second: [2,...], of the samples and of their squares

    def watch(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The blocks as they are."""
        for block in blocks:
            self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))
            edges = np.arange(self._rate - self.samples % self._rate, block.shape[-1], self._rate)
            for piece in np.split(block, edges, axis=-1):
                if self.samples % self._rate == 0:
                    self._sums.append(np.zeros((2, *block.shape[:-1])))
                self._sums[-1] += (
                    piece.sum(-1, dtype=np.float64),
                    np.square(piece, dtype=np.float64).sum(-1),
                )
                self.samples += piece.shape[-1]
            yield block

    @property
    def mean(self) -> np.ndarray:
        """[...]"""
        return np.sum(self._sums, axis=0)[0] / self.samples

    @property
    def power(self) -> np.ndarray:
        """[...]; exactly 0 for a constant."""
        power = np.sum(self._sums, axis=0)[1] / self.samples - np.square(self.mean)
        return np.where(power > ROUNDING * np.square(self.mean), power, 0.0)

    @property
    def seconds(self) -> np.ndarray:
        """[S,...]: the power in every second, around the mean of all; the last second may be shorter."""
        sums = np.stack(self._sums, axis=1)
        counts = np.full(sums.shape[1], self._rate)
        counts[-1] = self.samples - self._rate * (len(counts) - 1)
        means, squares = sums / counts.reshape(-1, *[1] * (sums.ndim - 2))
        return np.maximum(squares - 2 * means * self.mean + np.square(self.mean), 0.0)


def separate_file(
    separator: Separator,
    path: Path,
    target: Path,
    scratch: Path,
    options: Options,
    advance: Callable[[float], object] = lambda seconds: None,
) -> dict[str, Any]:
    """Separate a recording into target/source1.wav, source2.wav, …, at its own rate and exactly of its length.

    A source is left out where its estimate is below SILENT_DB in every second, relative to the mixture in that second or as a
    whole, whichever is louder; but never the loudest, and none where they have to add up. The 16 bits of FLAC end at full
    scale: where a sample would exceed it, all sources of the recording get one gain that brings it there.

    Args:
      path: a file that libsndfile can read.
      target: a folder; of what is in it, only earlier output is touched.
      scratch: a folder on the same disk, where files are written before they get their names.
      advance: called with the seconds of sound that were separated since its last call.

    Returns:
      JSON data: input, output, seconds, sample_rate, channels, sources (the numbers written), silent (those left out),
      levels_db (of all, the whole relative to the mixture), gain_db, took (s), real_time_factor (took / seconds).

    Raises:
      DataError: one line that names the file: it cannot be read, written or separated, or it has been before.
    """
    began = time.perf_counter()
    rate, channels, frames = audio_info(path)
    check_upsampling(rate, separator.sample_rate, display(path))
    _check_target(path, target, options, channels, rate)
    mixture, sources = Levels(rate), Levels(rate)
    with _partial(scratch, target) as partial:
        blocks = sources.watch(_estimates(separator, path, rate, options, mixture))
        files = _write(blocks, partial, rate, frames, advance)
        if not mixture.power.any():
            hint = (
                " (its channels averaged; --channels each keeps them)"
                if channels > mixture.power.size
                else ""
            )
            raise DataError(
                f"{display(path)}: holds no sound, every sample is {mixture.mean.flat[0]:g}{hint}"
            )
        silent = _silent(sources, mixture) & (not (options.keep_silent or options.consistent))
        for file in (file for file, absent in zip(files, silent, strict=True) if absent):
            file.unlink()
        gain = _to_flac(partial, sources.peak) if options.file_format == "flac" else 1.0
        _publish(partial, target, sources.samples)
    seconds, took = sources.samples / rate, time.perf_counter() - began
    return {
        "input": display(path),
        "output": display(target),
        "seconds": seconds,
        "sample_rate": rate,
        "channels": channels,
        "sources": [n + 1 for n, absent in enumerate(silent) if not absent],
        "silent": [n + 1 for n, absent in enumerate(silent) if absent],
        "levels_db": _decibels(sources.power.sum(axis=0) / mixture.power.sum()).round(2).tolist(),
        "gain_db": round(float(20 * np.log10(gain)), 2),
        "took": round(took, 3),
        "real_time_factor": round(took / seconds, 5),
    }


def _silent(sources: Levels, mixture: Levels) -> np.ndarray:
    """[N] bool: the estimates that hold no source."""
    reference = np.maximum(mixture.seconds.sum(axis=1), mixture.power.sum())  # [S]
    loudest = _decibels(sources.seconds.sum(axis=1) / reference[:, None]).max(axis=0)
    return loudest < min(SILENT_DB, loudest.max())


def _decibels(ratio: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(ratio, 1e-20))


def earlier_output(target: Path) -> list[Path]:
    """The files of sources in a folder that may not be there."""
    return (
        [file for file in target.iterdir() if OUTPUT.fullmatch(file.name)]
        if target.is_dir()
        else []
    )


def _check_target(path: Path, target: Path, options: Options, channels: int, rate: int) -> None:
    if target.exists() and not target.is_dir():
        raise DataError(
            f"{display(path)}: {display(target)} is a file; the sources need a folder of this name"
        )
    if earlier_output(target) and not options.force:
        raise DataError(
            f"{display(path)}: {display(target)} holds separated sources already; --force replaces them"
        )
    written = channels if options.channels == "each" else 1
    if options.file_format == "flac" and (written > FLAC_CHANNELS or rate > FLAC_RATE):
        raise DataError(
            f"{display(path)}: {written} channels at {rate} Hz are more than the {FLAC_CHANNELS} at {FLAC_RATE} Hz of FLAC; "
            f"--format wav takes them"
        )


def _estimates(
    separator: Separator, path: Path, rate: int, options: Options, mixture: Levels
) -> Iterator[np.ndarray]:
    """The estimates [K,N,T_j] of a file; mixture sees what is separated."""

    def read() -> Iterator[np.ndarray]:
        for block in audio_blocks(path):
            yield block if options.channels == "each" else block.mean(axis=0, keepdims=True)

    blocks = separator.stream(mixture.watch(read()), rate)
    try:
        yield from mixture_consistent(blocks, read()) if options.consistent else blocks
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"{display(path)}: {error}") from error


def _write(
    blocks: Iterable[np.ndarray],
    partial: Path,
    rate: int,
    frames: int,
    advance: Callable[[float], object],
) -> list[Path]:
    """Write blocks [K,N,T_j] to partial/source1.wav, …; frames: how many are expected in all."""
    paths: list[Path] = []
    with ExitStack() as stack:
        files: list[soundfile.SoundFile] = []
        for block in blocks:
            if not files:
                channels = len(block)
                large = frames * channels * 4 > WAV_BYTES
                paths = [partial / f"source{n + 1}.wav" for n in range(block.shape[1])]
                for path in paths:
                    made = soundfile.SoundFile(
                        os.fsencode(path),
                        "w",
                        rate,
                        channels,
                        "FLOAT",
                        format="RF64" if large else "WAV",
                    )
                    files.append(stack.enter_context(made))
            for n, file in enumerate(files):
                file.write(np.ascontiguousarray(block[:, n].T))
            advance(block.shape[-1] / rate)
    return paths


def _to_flac(partial: Path, peak: float) -> float:
    """Turn the float files of a folder into 16-bit FLAC; returns the gain, 1 where the peak allows it."""
    # A reader divides by 2^15, so the highest integer is a little less than 1.
    gain = min(1.0, (1 - 2.0**-15) / max(peak, 1e-30))
    for path in list(partial.iterdir()):
        with soundfile.SoundFile(os.fsencode(path)) as source:
            target = os.fsencode(path.with_suffix(".flac"))
            with soundfile.SoundFile(
                target, "w", source.samplerate, source.channels, "PCM_16", format="FLAC"
            ) as file:
                for block in source.blocks(1 << 16, dtype="float32", always_2d=True):
                    file.write(np.rint(block * np.float64(gain * 2**15)).astype(np.int16))
        path.unlink()
    return gain


@contextmanager
def _partial(scratch: Path, target: Path) -> Iterator[Path]:
    """A folder for the files of target while they are written, gone afterwards; what a killed process left of it goes first.

    What cannot be written inside becomes a DataError that names the target.
    """
    name = hashlib.sha256(os.fsencode(target.resolve())).hexdigest()[:16]
    partial = scratch / f".partial-{name}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
    # An AssertionError is how soundfile says that a file took less than was written.
    except (soundfile.SoundFileError, OSError, AssertionError) as error:
        reason = (
            getattr(error, "strerror", None)
            or str(error)
            or "the disk is full, or the file beyond its size limit"
        )
        raise DataError(f"{display(target)}: cannot be written ({reason.strip()})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: Path, target: Path, samples: int) -> None:
    """Give the files of a folder their final names, when all of them are known to be on the disk; then remove earlier ones."""
    new = sorted(partial.iterdir())
    for path in new:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
        if soundfile.info(os.fsencode(path)).frames != samples:
            raise OSError(0, "the disk is full, or the file beyond its size limit")
    target.mkdir(parents=True, exist_ok=True)
    for path in new:
        os.replace(path, target / path.name)
    for path in earlier_output(target):
        if path.name not in {path.name for path in new}:
            path.unlink()

"""A recording on disk -> a folder with a file for each source, complete or not at all.

Sound is read, separated and written block by block, in memory that does not depend on its length:
as float WAV files in a scratch folder, then as FLAC where that is wanted, then under their names.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from jaxsep.data.audio import audio_blocks, audio_info, check_upsampling
from jaxsep.errors import DataError
from jaxsep.files import display
from jaxsep.inference.chunks import ROUNDING, mixture_consistent
from jaxsep.inference.separator import Separator

# An estimate that stays this far below the mixture is taken for silence. Training asks the estimate
# of an absent source to fall to −30 dB, where its loss flattens, and mixes sources within ±30 dB.
SILENT_DB = -30.0
OUTPUT = re.compile(r"source\d+\.(wav|flac)")
WAV_BYTES = 0xFFFF_0000  # sizes in a WAV file have 32 bits; beyond, RF64 has the same with 64
FLAC_CHANNELS = 8
NOT_WRITTEN = "the disk is full, or the file beyond its size limit"


class Options(NamedTuple):
    """What is written; README.md says it at length."""

    channels: str = "mix"  # or 'each', separated one by one into files of as many channels
    format: str = "wav"  # 32-bit float, or 'flac', 16 bit
    consistent: bool = False  # the sources add up to the mixture
    keep_silent: bool = False  # also sources that are nearly silent throughout
    force: bool = False  # replace what was written before


def separate_file(
    separator: Separator,
    path: Path,
    target: Path,
    scratch: Path,
    options: Options,
    advance: Callable[[float], object] = lambda seconds: None,
) -> dict[str, Any]:
    """Separate a recording into target/source1.wav, source2.wav, …, of its own rate and length.

    A source is left out where its estimate is below SILENT_DB in every second, relative to the
    mixture in that second or as a whole, whichever is louder; but never the loudest, and none where
    they have to add up. The 16 bits of FLAC end at full scale: where a sample would exceed it, all
    sources of the recording get the one gain that brings it there.

    Args:
      path: a file that libsndfile can read.
      target: a folder; of what is in it, only earlier output is touched.
      scratch: a folder on the same disk, where files are written before they get their names.
      advance: called with the seconds of sound that were separated since its last call.

    Returns:
      JSON data: input, output, seconds, sample_rate, channels, sources (the numbers written),
      silent (those left out), levels_db (of each source relative to the mixture), gain_db, took
      (s), real_time_factor (took / seconds).

    Raises:
      DataError: one line with the path: it cannot be read, written or separated, or it has been
        separated before.
    """
    began = time.perf_counter()
    rate, channels, frames = audio_info(path)
    check_upsampling(rate, separator.sample_rate, display(path))
    if options.format == "flac" and options.channels == "each" and channels > FLAC_CHANNELS:
        raise DataError(
            f"{display(path)}: has {channels} channels; FLAC holds at most {FLAC_CHANNELS}, "
            "--format wav any number"
        )
    if target.exists() and not target.is_dir():
        raise DataError(f"{display(path)}: {display(target)} is a file, not a folder for sources")
    if _earlier_output(target) and not options.force:
        raise DataError(
            f"{display(path)}: {display(target)} holds separated sources already; "
            "--force replaces them"
        )
    mixture, sources = Levels(rate), Levels(rate)
    with _scratch_folder(scratch, target) as partial:
        blocks = sources.watch(_estimates(separator, path, rate, options, mixture))
        _write(blocks, partial, rate, frames, advance)
        mean, power, _ = mixture.powers()
        if not power.any():
            hint = " (its channels averaged; --channels each keeps them)"
            raise DataError(
                f"{display(path)}: holds no sound, every sample is {mean.flat[0]:g}"
                + hint * (channels > power.size)
            )
        silent = _silent(sources, mixture) & (not (options.keep_silent or options.consistent))
        for n in np.flatnonzero(silent):
            (partial / f"source{n + 1}.wav").unlink()
        gain = _to_flac(partial, sources.peak) if options.format == "flac" else 1.0
        _publish(partial, target, sources.samples)
    seconds, took = sources.samples / rate, time.perf_counter() - began
    return {
        "input": display(path),
        "output": display(target),
        "seconds": seconds,
        "sample_rate": rate,
        "channels": channels,
        "sources": (np.flatnonzero(~silent) + 1).tolist(),
        "silent": (np.flatnonzero(silent) + 1).tolist(),
        "levels_db": _decibels(sources.powers()[1].sum(0) / power.sum()).round(2).tolist(),
        "gain_db": round(float(20 * np.log10(gain)), 2),
        "took": round(took, 3),
        "real_time_factor": round(took / seconds, 5),
    }


class Levels:
    """Length, peak and powers of signals [...,T] that come in blocks."""

    def __init__(self, rate: int) -> None:
        self.samples, self.peak = 0, 0.0
        self._rate = rate
        self._sums: list[np.ndarray] = []  # of each second: [2,...], of samples and of squares

    def watch(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The blocks, unchanged."""
        for block in blocks:
            self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))
            edges = np.arange(self._rate - self.samples % self._rate, block.shape[-1], self._rate)
            for piece in np.split(block, edges, axis=-1) if block.size else ():
                if self.samples % self._rate == 0:
                    self._sums.append(np.zeros((2, *block.shape[:-1])))
                squares = np.square(piece, dtype=np.float64)
                self._sums[-1] += piece.sum(-1, dtype=np.float64), squares.sum(-1)
                self.samples += piece.shape[-1]
            yield block

    def powers(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean [...]; power around it [...], exactly 0 for a constant; the same of seconds [S,...].

        The last second may be shorter.
        """
        mean, square = np.sum(self._sums, axis=0) / self.samples
        power = square - np.square(mean)
        counts = np.diff(np.append(np.arange(0, self.samples, self._rate), self.samples))
        means, squares = np.stack([s / n for s, n in zip(self._sums, counts, strict=True)], axis=1)
        seconds = np.maximum(squares - 2 * means * mean + np.square(mean), 0.0)
        return mean, np.where(power > ROUNDING * np.square(mean), power, 0.0), seconds


def _silent(sources: Levels, mixture: Levels) -> np.ndarray:
    """[N] bool: the estimates that hold no source."""
    _, power, seconds = mixture.powers()
    reference = np.maximum(seconds.sum(axis=1), power.sum())  # [S]
    loudest = _decibels(sources.powers()[2].sum(axis=1) / reference[:, None]).max(axis=0)
    return loudest < min(SILENT_DB, loudest.max())


def _decibels(ratio: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(ratio, 1e-20))


def _earlier_output(target: Path) -> list[Path]:
    """The files of sources in a folder, which need not exist."""
    files = target.iterdir() if target.is_dir() else ()
    return [file for file in files if OUTPUT.fullmatch(file.name)]


def _estimates(
    separator: Separator, path: Path, rate: int, options: Options, mixture: Levels
) -> Iterator[np.ndarray]:
    """The estimates [K,N,T_j] of a file; mixture watches what is separated."""

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
    folder: Path,
    rate: int,
    frames: int,
    advance: Callable[[float], object],
) -> None:
    """Write blocks [K,N,T_j] to folder/source1.wav, …; frames: how many are expected in all."""
    files: list[soundfile.SoundFile] = []
    with ExitStack() as stack:
        for block in blocks:
            channels, sources, samples = block.shape
            for n in range(len(files), sources):
                name = os.fsencode(folder / f"source{n + 1}.wav")
                form = "RF64" if frames * channels * 4 > WAV_BYTES else "WAV"
                file = soundfile.SoundFile(name, "w", rate, channels, "FLOAT", format=form)
                files.append(stack.enter_context(file))
            for n, file in enumerate(files):
                file.write(np.ascontiguousarray(block[:, n].T))
            advance(samples / rate)


def _to_flac(folder: Path, peak: float) -> float:
    """Turn a folder's float files into 16-bit FLAC; gives the gain, 1 where the peak allows it."""
    # A reader divides by 2^15, so the highest integer is a little less than 1.
    gain = min(1.0, (1 - 2.0**-15) / max(peak, 1e-30))
    for path in list(folder.iterdir()):
        name, form = os.fsencode(path.with_suffix(".flac")), ("PCM_16", None, "FLAC")
        with (
            soundfile.SoundFile(os.fsencode(path)) as wav,
            soundfile.SoundFile(name, "w", wav.samplerate, wav.channels, *form) as flac,
        ):
            for block in wav.blocks(1 << 16, dtype="float32", always_2d=True):
                flac.write(np.rint(block * np.float64(gain * 2**15)).astype(np.int16))
        path.unlink()
    return gain


@contextmanager
def _scratch_folder(scratch: Path, target: Path) -> Iterator[Path]:
    """A folder for the files of target while they are written, removed afterwards.

    Its name depends on the target alone, so that what a killed process left of it goes first. What
    cannot be written inside becomes a DataError that names the target.
    """
    name = hashlib.sha256(os.fsencode(target.resolve())).hexdigest()[:16]
    partial = scratch / f".partial-{name}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
    # An AssertionError is how soundfile says that a file took less than was written.
    except (soundfile.SoundFileError, OSError, AssertionError) as error:
        reason = getattr(error, "strerror", None) or str(error) or NOT_WRITTEN
        raise DataError(f"{display(target)}: cannot be written ({reason.strip()})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: Path, target: Path, samples: int) -> None:
    """Give files their final names once all are on the disk, then remove earlier ones.

    Not `files.atomic_folder`: what the user has put into the target stays.
    """
    new = sorted(partial.iterdir())
    for path in new:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
        if soundfile.info(os.fsencode(path)).frames != samples:
            raise OSError(0, NOT_WRITTEN)
    target.mkdir(parents=True, exist_ok=True)
    for path in new:
        os.replace(path, target / path.name)
    for path in set(_earlier_output(target)) - {target / path.name for path in new}:
        path.unlink()

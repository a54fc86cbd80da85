"""A trained network as a function from sound to its sources, at any rate and of any length."""

import itertools
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import soxr

from jaxsep import models
from jaxsep.inference.bundle import load_bundle
from jaxsep.inference.chunks import (
    CHUNK_SECONDS,
    OVERLAP_SECONDS,
    Network,
    Plan,
    make_plan,
    separate_blocks,
)


def load(
    folder: str | os.PathLike,
    *,
    chunk: float = CHUNK_SECONDS,
    overlap: float = OVERLAP_SECONDS,
    trust: str = "",
) -> "Separator":
    """A separator from a run's folder or a model bundle.

    >>> separator = load("runs/class_bias-demo")  # doctest: +SKIP
    >>> sources = separator(audio, sample_rate)  # doctest: +SKIP

    Args:
      folder: of the run or the bundle.
      chunk, overlap: seconds, see `chunks`; chunk=float("inf") takes every recording as a whole, in
        memory that grows with it.
      trust: 'package.module:Class' of a network outside jaxsep that the bundle may name; importing
        it runs its code.

    Raises:
      ModelError: see `load_bundle`.
      ValueError: chunk and overlap, see `chunks.make_plan`.
    """
    module, params, description = load_bundle(folder, trust=trust)
    sample_rate = description["sample_rate"]
    plan = make_plan(sample_rate, chunk, overlap)
    return Separator(make_network(module, params), sample_rate, plan)


@dataclass(frozen=True)
class Separator:
    """What `load` gives: called with an array it returns the sources; `stream` takes blocks.

    network: see `chunks.separate_blocks`. sample_rate: the network's, Hz.
    """

    network: Network
    sample_rate: int
    plan: Plan

    def __call__(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """The sources [N,T] of audio [T] or [T,channels], whose channels are averaged; float32.

        They have the audio's own rate (Hz), length and scale. Silence gives silence. Audio longer
        than a chunk is separated chunk by chunk; a shorter one compiles the network for its length.

        Raises:
          ValueError: audio is empty, not finite, not [T] or [T,channels], or shorter than a sample
            at the network's rate; or the network gave values that are not finite.
        """
        audio = np.asarray(audio, np.float32)
        if audio.ndim not in (1, 2) or audio.size == 0 or not np.all(np.isfinite(audio)):
            raise ValueError(
                f"audio must be finite, [T] or [T, channels] and not empty, got shape {audio.shape}"
            )
        mono = audio if audio.ndim == 1 else audio.mean(axis=1)
        return np.concatenate(list(self.stream([mono[None]], sample_rate)), axis=-1)[0]

    def stream(self, blocks: Iterable[np.ndarray], sample_rate: float) -> Iterator[np.ndarray]:
        """The sources of a recording read block by block, in memory that does not grow with it.

        Args:
          blocks: [K,T_i] float32, finite, K channels; each is separated by itself.
          sample_rate: Hz, of the blocks.

        Yields:
          [K,N,T_j] float32 at that rate, exactly as many samples in all as the blocks have.

        Raises:
          ValueError: see `__call__`.
        """
        if not sample_rate > 0:
            raise ValueError(f"sample_rate must be positive, got {sample_rate}")
        taken: list[int] = []  # samples of the blocks so far

        def counted() -> Iterator[np.ndarray]:
            for block in blocks:
                taken.append(block.shape[-1])
                yield block

        at_network_rate = resampled(counted(), sample_rate, self.sample_rate)
        estimates = separate_blocks(at_network_rate, self.network, self.plan)
        given, block = 0, None
        for block in resampled(estimates, self.sample_rate, sample_rate):
            block = block[..., : sum(taken) - given]
            given += block.shape[-1]
            yield block
        if block is None:
            raise ValueError(
                f"{sum(taken)} samples at {sample_rate} Hz are less than one "
                f"at the network's {self.sample_rate} Hz"
            )
        if missing := sum(taken) - given:  # rounding: less than a sample at the network's rate
            yield np.zeros((*block.shape[:-1], missing), np.float32)


def resampled(blocks: Iterable[np.ndarray], rate: float, wanted: float) -> Iterator[np.ndarray]:
    """Blocks [...,T_i] float32 at another rate (soxr, high quality, without delay).

    T samples become about T·wanted / rate.
    """
    blocks = iter(blocks)
    first = next(blocks, None)
    if first is None:
        return
    if rate == wanted:
        yield from itertools.chain([first], blocks)
        return
    axes = first.shape[:-1]
    stream = soxr.ResampleStream(rate, wanted, math.prod(axes), dtype="float32", quality="HQ")
    for block in itertools.chain([first], blocks, [None]):
        samples = np.zeros((*axes, 0), np.float32) if block is None else block
        frames = np.ascontiguousarray(samples.reshape(math.prod(axes), -1).T, np.float32)
        frames = stream.resample_chunk(frames, last=block is None)
        if len(frames):
            yield frames.T.reshape(*axes, len(frames))


def make_network(module: Any, params: Any) -> Network:
    """The compiled network, mixture [T] -> estimates [N,T]; every length is compiled once.

    The zeros that jaxsep's own networks add to a mixture are added here, so that short recordings
    of many lengths take few compilations. The estimates are the same, as long as the network adds
    no more to what it is given.
    """
    ours = type(module) in models.FAMILIES.values()
    if ours:
        # Without a gradient, remat only keeps the loop over the blocks a loop: half the time to
        # compile, and less memory.
        module = module.clone(remat=True)
    params, apply = jax.device_put(params), jax.jit(module.apply)

    def network(mixture: np.ndarray) -> np.ndarray:
        samples = length = len(mixture)
        if ours and module.padded(module.padded(samples)) == module.padded(samples):
            length = module.padded(samples)
        padded = np.pad(mixture, (0, length - samples))
        return np.asarray(apply({"params": params}, padded[None]))[0, :, :samples]

    return network

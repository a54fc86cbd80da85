"""Means, powers and energies of signals: what packs measure once and mixtures are made by."""

import numpy as np

FRAME_SECONDS = 0.1
# What is left of a constant after its float32 mean is removed is rounding noise, not sound.
ROUNDING = 1e-10


def remove_mean(block: np.ndarray) -> np.ndarray:
    """Remove the mean of each row of `block` [N,T] in place; returns the power left, float64 [N].

    A constant row becomes exactly zero, with power 0.
    """
    means = block.mean(axis=1, keepdims=True)
    block -= means
    power = np.einsum("nt,nt->n", block, block).astype(np.float64) / block.shape[1]
    power[power <= ROUNDING * means[:, 0].astype(np.float64) ** 2] = 0.0
    block[power == 0] = 0.0
    return power


def power_ratio(power: np.ndarray) -> float:
    """Power of source 0 to source 1, dB; 0 where there is no such ratio."""
    if power.size < 2 or power[:2].min() <= 0:
        return 0.0
    return float(10 * np.log10(power[0] / power[1]))


def frame_size(sample_rate: int) -> int:
    """Samples in the 0.1 s over which energies are summed, at least 1."""
    return max(1, round(FRAME_SECONDS * sample_rate))


def frame_energies(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Sum of squares about the mean of each 0.1 s of `samples` [T].

    Returns:
        float32 [ceil(T / frame_size)], never negative.
    """
    starts = np.arange(0, samples.size, frame_size(sample_rate))
    exact = samples.astype(np.float64)
    counts = np.diff(np.append(starts, samples.size))
    energies = np.add.reduceat(exact * exact, starts) - np.add.reduceat(exact, starts) ** 2 / counts
    return np.maximum(energies, 0.0).astype(np.float32)

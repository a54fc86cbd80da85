"""Scale-invariant signal-to-distortion ratio (SI-SDR), pure JAX.

For an estimate ŝ and a source s, both with their mean over time removed,

    t = (<ŝ, s> / <s, s>) · s            the part of ŝ that is the source
    e = ŝ − t                            the rest: interference, noise, artefacts
    SI-SDR = 10·log10(‖t‖² / ‖e‖²)       dB, higher is better

Source: Le Roux, Wisdom, Erdogan, Hershey, "SDR – half-baked or well done?", ICASSP 2019.

Computed here as 10·log10((‖t‖² + ε‖ŝ‖²) / (‖e‖² + ε‖ŝ‖²)) with ε = 1e-10 and ‖ŝ‖² = ‖t‖² + ‖e‖²:
bounded to ±100 dB, smooth, and homogeneous, so that neither the value nor the direction of the
gradient depends on the scale of either signal.

| estimate ŝ, source s                     | SI-SDR              | gradient                       |
| ---------------------------------------- | ------------------- | ------------------------------ |
| either scaled by a factor, 1e-30 … 1e30  | unchanged           | scaled by the factor's inverse |
| either with a constant added (DC offset) | unchanged           | zero mean                      |
| ŝ = a·s for any a ≠ 0, negative ones too | +100 dB             | finite                         |
| ŝ orthogonal to s                        | −100 dB             | finite                         |
| ŝ, s or both silent or constant          | −100 dB             | zero                           |
| T = 1 (a single sample is its own mean)  | −100 dB             | zero                           |
| integers, float16, bfloat16              | computed in float32 | in the input's type            |
| a sample of either is NaN or infinite    | NaN                 | NaN                            |
| other estimates or sources beside them   | unchanged           | zero                           |

A signal counts as silent when what is left of it after its mean is removed is no more than the
rounding of that mean, or where its samples are too small for a normal float32 (1.2e-38). Near the
bound the ε shows: 60 dB is read as 59.9996 dB, 80 dB as 79.957 dB. In float32, for T ≥ 4, values
within ±60 dB are within 1e-3 dB of the same formula in float64, those beyond within 0.05 dB. With
`zero_mean=False` the mean stays in, and a constant is a sound like any other.
"""

import jax
import jax.numpy as jnp

LARGEST_SCALE = 1e37  # XLA divides by multiplying: the inverse must be a normal float32
_BOUND = 1e-10  # −100 dB as a power ratio
_ROUNDING = 5e-7  # four units in the last place of float32, relative to the mean that was removed


def si_sdr(estimates: jax.Array, sources: jax.Array, *, zero_mean: bool = True) -> jax.Array:
    """SI-SDR of each estimate against the source at the same place.

    Args:
      estimates: [..., T], any real type; usually [B, N, T].
      sources: [..., T], the same shape or one that broadcasts to it.
      zero_mean: remove each signal's mean over T first.

    Returns:
      [...] dB, one value per signal, within ±100; float32 (float64 for float64 input).

    Edge behaviour: the table at the top of this file.

    Raises:
      ValueError: the two differ in T.

    >>> import jax.numpy as jnp
    >>> s = jnp.array([[1.0, -1.0, 1.0, -1.0]])
    >>> noise = jnp.array([[0.1, 0.1, -0.1, -0.1]])
    >>> print(si_sdr(3 * (s + noise) + 7, s).round(3))
    [20.]
    """
    _check_lengths(estimates, sources)
    return _ratio_db(*_unit(estimates, zero_mean), *_unit(sources, zero_mean))


def pairwise_si_sdr(
    estimates: jax.Array, sources: jax.Array, *, zero_mean: bool = True
) -> jax.Array:
    """SI-SDR of every estimate against every source of the same mixture.

    Args:
      estimates: [..., M, T].
      sources: [..., N, T], leading axes as those of estimates.
      zero_mean: remove each signal's mean over T first.

    Returns:
      [..., N, M] dB: entry [n, m] is estimate m against source n.

    Edge behaviour and errors: as `si_sdr`.
    """
    _check_lengths(estimates, sources)
    unit_estimates, estimate_sounds = _unit(estimates, zero_mean)
    unit_sources, source_sounds = _unit(sources, zero_mean)
    return _ratio_db(
        unit_estimates[..., None, :, :],
        estimate_sounds[..., None, :],
        unit_sources[..., :, None, :],
        source_sounds[..., :, None],
    )


def _check_lengths(estimates: jax.Array, sources: jax.Array) -> None:
    if estimates.shape[-1:] != sources.shape[-1:]:
        raise ValueError(
            f"estimates and sources must have the same number of samples in the last axis, "
            f"got {estimates.shape} and {sources.shape}"
        )


def _unit(signals: jax.Array, zero_mean: bool) -> tuple[jax.Array, jax.Array]:
    """Signals scaled to norm 1 (silence stays 0) and whether each sounds, [..., T] and [...] bool.

    The scale carries no gradient. The ratio does not depend on the scale, so the gradient is the
    same either way, and cheaper.
    """
    signals = jnp.asarray(signals)
    signals = signals.astype(jnp.promote_types(signals.dtype, jnp.float32))
    peak = jax.lax.stop_gradient(jnp.max(jnp.abs(signals), axis=-1, keepdims=True))
    peak = jnp.minimum(peak, LARGEST_SCALE)
    signals = signals / jnp.where(peak > 0, peak, 1.0)  # squares of 1e±30 would leave float32
    rounding = jnp.zeros_like(peak)
    if zero_mean:
        mean = jnp.mean(signals, axis=-1, keepdims=True)
        rounding = _ROUNDING * jnp.abs(jax.lax.stop_gradient(mean))
        signals = signals - mean
        # Once more, for what rounding left of a large offset.
        signals = signals - jnp.mean(signals, axis=-1, keepdims=True)
    rms = jnp.sqrt(jnp.mean(jnp.square(jax.lax.stop_gradient(signals)), axis=-1, keepdims=True))
    sounds = ~(rms <= rounding)  # NaN counts as sound, and shows in the result
    scale = jnp.where(sounds, rms, 1.0) * jnp.sqrt(float(max(signals.shape[-1], 1)))
    return jnp.where(sounds, signals / scale, 0.0), sounds[..., 0]


def _ratio_db(
    estimates: jax.Array, estimate_sounds: jax.Array, sources: jax.Array, source_sounds: jax.Array
) -> jax.Array:
    both_sound = estimate_sounds & source_sounds
    inner = jnp.sum(estimates * sources, axis=-1)
    source_power = jnp.where(source_sounds, jnp.sum(jnp.square(sources), axis=-1), 1.0)
    gain = inner / source_power
    target = jnp.where(both_sound, inner * gain, 0.0)
    # Sample by sample: ‖ŝ‖² − ‖t‖² would lose an estimate of more than 60 dB in rounding.
    residual = jnp.sum(jnp.square(estimates - gain[..., None] * sources), axis=-1)
    residual = jnp.where(both_sound, residual, 1.0)
    bound = _BOUND * (target + residual)
    return 10.0 * (jnp.log10(target + bound) - jnp.log10(residual + bound))

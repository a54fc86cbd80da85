"""Every example of a set through the network, one row per source."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsep.objective.permutation import best_permutation
from jaxsep.objective.si_sdr import pairwise_si_sdr, si_sdr

Rows = dict[str, np.ndarray]
LABELS = (
    "index",
    "class_ids",
    "active",
    "valid",
)  # of a batch, that its rows are made of beside the scores
COLUMNS = ("index", "slot", "class_id", "num_active", "input_snr", "si_sdr", "si_sdri")


def make_eval_step(
    apply_fn: Callable[..., jax.Array], *, zero_mean: bool = True
) -> Callable[..., dict[str, jax.Array]]:
    """The evaluation step (params, batch) -> scores [B, N], to be jitted by the caller.

    Args:
      apply_fn: module.apply, mapping ({'params': params}, mixture [B, T]) to estimates [B, N, T].
      zero_mean: as `jaxsep.si_sdr`.

    The batch holds mixture [B, T], sources [B, N, T], active [B, N], lengths [B] and the other LABELS: what lies beyond an
    example's length is padding, which the network sees and no score counts.

    Returns of the step: LABELS, as the batch has them; si_sdr dB after the best permutation; si_sdri dB, over the mixture's
    own; input_snr dB, the power of the source over that of the rest of the mixture, within ±100. Rows of inactive sources and
    of padding examples mean nothing.
    """

    def step(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        mixture, sources, active = batch["mixture"], batch["sources"], batch["active"]
        estimates = apply_fn({"params": params}, mixture)
        inside = (jnp.arange(mixture.shape[-1])[None, :] < batch["lengths"][:, None])[:, None, :]

        def cut(signals: jax.Array) -> jax.Array:
            signals = jnp.where(inside, signals, 0.0)
            if zero_mean:
                mean = (
                    jnp.sum(signals, axis=-1, keepdims=True)
                    / jnp.maximum(batch["lengths"], 1)[:, None, None]
                )
                signals = jnp.where(inside, signals - mean, 0.0)
            return signals

        estimates, sources, mixture = cut(estimates), cut(sources), cut(mixture[:, None, :])
        _, scores = best_permutation(
            pairwise_si_sdr(estimates, sources, zero_mean=False), active=active
        )
        own = si_sdr(mixture, sources, zero_mean=False)
        power = jnp.sum(jnp.square(sources), axis=-1)
        rest = jnp.sum(jnp.square(mixture - sources), axis=-1)
        bound = 1e-10 * (power + rest) + jnp.finfo(jnp.float32).tiny
        snr = 10.0 * (jnp.log10(power + bound) - jnp.log10(rest + bound))
        labels = {name: batch[name] for name in LABELS}
        return {**labels, "si_sdr": scores, "si_sdri": scores - own, "input_snr": snr}

    return step


def evaluate(
    eval_step: Callable[..., dict[str, jax.Array]], params: Any, batches: Iterable[dict[str, Any]]
) -> Rows:
    """One row per active source of every valid example, in the order of the batches.

    Args:
      eval_step: see `make_eval_step`; jitted.
      params: the network's parameters.
      batches: dicts with index [B], class_ids [B, N], active [B, N], valid [B] (False: padding of the last batch) and what the
        step takes.

    Returns:
      COLUMNS -> array [rows]: index and slot (which mixture, which slot of it), class_id, num_active (sources that sound in the
      mixture), input_snr, si_sdr, si_sdri in dB.
    """
    parts: list[Rows] = []
    for batch in batches:
        found = jax.device_get(eval_step(params, batch))
        active = found["active"]
        example, slot = np.nonzero(active & found["valid"][:, None])
        parts.append(
            {
                "index": found["index"][example],
                "slot": slot,
                "class_id": found["class_ids"][example, slot],
                "num_active": np.sum(active, axis=-1)[example],
                **{name: found[name][example, slot] for name in ("input_snr", "si_sdr", "si_sdri")},
            }
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in COLUMNS}

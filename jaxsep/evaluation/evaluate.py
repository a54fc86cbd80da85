"""Every mixture of a set through the network: one row of scores per source."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsep.objective.permutation import best_permutation
from jaxsep.objective.si_sdr import pairwise_si_sdr, si_sdr

Rows = dict[str, np.ndarray]
LABELS = ("index", "class_ids", "active", "valid")  # what a row takes from the batch


def make_eval_step(
    apply_fn: Callable[..., jax.Array], *, zero_mean: bool = True
) -> Callable[..., dict[str, jax.Array]]:
    """The evaluation step (params, batch) -> scores [B, N], to be jitted by the caller.

    The batch holds mixture [B, T], sources [B, N, T], lengths [B] and LABELS. What lies beyond an
    example's length is padding, which the network sees and no score counts.

    Args:
      apply_fn: module.apply, mapping ({'params': params}, mixture [B, T]) to estimates [B, N, T].
      zero_mean: as in `jaxsep.si_sdr`.

    Returns:
      The step. It gives LABELS as they are in the batch; si_sdr (dB) after the best permutation;
      si_sdri (dB), which is that minus the mixture's own; and input_snr (dB), the power of the
      source over that of the rest of the mixture, within ±100. Rows of inactive sources and of
      padding examples mean nothing.
    """

    def step(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        lengths = batch["lengths"][:, None, None]
        inside = jnp.arange(batch["mixture"].shape[-1])[None, None, :] < lengths

        def cut(signals: jax.Array) -> jax.Array:
            signals = jnp.where(inside, signals, 0.0)
            if zero_mean:
                mean = jnp.sum(signals, axis=-1, keepdims=True) / jnp.maximum(lengths, 1)
                signals = jnp.where(inside, signals - mean, 0.0)
            return signals

        estimates = cut(apply_fn({"params": params}, batch["mixture"]))
        sources, mixture = cut(batch["sources"]), cut(batch["mixture"][:, None, :])
        pairwise = pairwise_si_sdr(estimates, sources, zero_mean=False)
        _, scores = best_permutation(pairwise, active=batch["active"])
        unprocessed = si_sdr(mixture, sources, zero_mean=False)
        power = jnp.sum(jnp.square(sources), axis=-1)
        rest = jnp.sum(jnp.square(mixture - sources), axis=-1)
        bound = 1e-10 * (power + rest) + jnp.finfo(jnp.float32).tiny
        snr = 10.0 * (jnp.log10(power + bound) - jnp.log10(rest + bound))
        labels = {name: batch[name] for name in LABELS}
        return {**labels, "input_snr": snr, "si_sdr": scores, "si_sdri": scores - unprocessed}

    return step


def evaluate(
    eval_step: Callable[..., dict[str, Any]],
    params: Any,
    batches: Iterable[dict[str, Any]],
    before_each: Callable[[], None] = lambda: None,
) -> Rows:
    """One row per active source of every valid example, in the order of the batches.

    Args:
      eval_step: see `make_eval_step`; jitted.
      params: the network's parameters.
      batches: what the step takes; valid is False for the padding examples of the last batch.
      before_each: called before each batch; what it raises ends the evaluation.

    Returns:
      Columns, name -> array [rows]: index of the mixture and slot in it, class_id, num_active
      (sources that sound in the mixture), input_snr, si_sdr, si_sdri (dB).
    """
    parts: list[Rows] = []
    for batch in batches:
        before_each()
        scores = jax.device_get(eval_step(params, batch))
        example, slot = np.nonzero(scores["active"] & scores["valid"][:, None])
        parts.append(
            {
                "index": scores["index"][example],
                "slot": slot,
                "class_id": scores["class_ids"][example, slot],
                "num_active": np.sum(scores["active"], axis=-1)[example],
            }
            | {name: scores[name][example, slot] for name in ("input_snr", "si_sdr", "si_sdri")}
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

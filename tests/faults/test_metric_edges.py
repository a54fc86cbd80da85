"""The metric and the loss at every edge: scales, offsets, silence, constants, one sample.

Every value is compared with the definition written out in NumPy float64, which lists all
permutations. Within ±60 dB the two agree to 1e-3 dB, beyond (the bound is ±100 dB) to 0.05 dB.
"""

import itertools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import network

import jaxsep
from jaxsep.objective.permutation import separation_losses
from jaxsep.training.step import separation_loss_fn

# (sources, samples): few shapes, so that few programs are compiled.
SHAPES = ((1, 64), (2, 64), (3, 64), (5, 64), (2, 1))
EXAMPLES = settings(max_examples=50, derandomize=True, deadline=None, database=None)
# What an estimate is: of this kind, or the source with noise so many dB below it.
KINDS = ("perfect", "negative", "silent", "constant", "unrelated")
RELATIONS = (*KINDS, -60, -40, -20, 0, 10, 20, 40, 60, 80)


class Case(NamedTuple):
    """One mixture: estimates, sources [N, T] and mixture [T] float32, active [N]."""

    estimates: np.ndarray
    sources: np.ndarray
    mixture: np.ndarray
    active: np.ndarray


@st.composite
def cases(draw, shapes=SHAPES, largest=6, offsets=(0, 0, 0.3, -30, 1000)) -> Case:
    """Mixtures with scales of 1e-largest … 1e+largest, and offsets relative to these scales."""
    count, samples = draw(st.sampled_from(shapes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    exponents = st.floats(-largest, largest)
    sources, estimates = np.zeros((2, count, samples))
    active = np.ones(count, bool)
    kinds = ("sound", "sound", "sound", "silent", "constant", "inactive")
    # One scale for all: of very different ones, the mixture would hold nothing but the loudest.
    common = 10 ** draw(exponents)
    for n in range(count):
        noise = rng.standard_normal(samples)
        kind = draw(st.sampled_from(kinds))
        source = rng.standard_normal(samples) * (kind == "sound") + (kind == "constant")
        active[n] = kind != "inactive"
        relation = draw(st.sampled_from(RELATIONS))
        estimate = {
            "perfect": source,
            "negative": -source,
            "silent": 0 * source,
            "constant": 0 * source + 0.1,
            "unrelated": noise,
        }.get(relation)
        if estimate is None:
            estimate = source + 10 ** (-relation / 20) * noise
        sources[n] = common * (source + draw(st.sampled_from(offsets)) * (kind == "sound"))
        estimates[n] = 10 ** draw(exponents) * (estimate + draw(st.sampled_from(offsets)))
    estimates = estimates[rng.permutation(count)].astype(np.float32)
    sources = sources.astype(np.float32)
    return Case(estimates, sources, sources.sum(axis=0, dtype=np.float32), active)


def centred(signal: np.ndarray, zero_mean: bool) -> np.ndarray:
    """The signal in float64 without its mean; zeros where only the rounding of the mean is left."""
    signal = signal.astype(np.float64)
    if not zero_mean:
        return signal
    left = signal - signal.mean()
    return left if np.sqrt(np.mean(left**2)) > 5e-7 * abs(signal.mean()) else 0 * left


def twin_si_sdr(estimate: np.ndarray, source: np.ndarray, zero_mean: bool = True) -> float:
    """The bounded definition, 10·log10((‖t‖² + ε‖ŝ‖²)/(‖e‖² + ε‖ŝ‖²)); −100 where one is silent."""
    estimate, source = centred(estimate, zero_mean), centred(source, zero_mean)
    if not estimate.any() or not source.any():
        return -100.0
    estimate, source = estimate / np.linalg.norm(estimate), source / np.linalg.norm(source)
    target = (estimate @ source) * source
    error = estimate - target
    return 10 * np.log10((target @ target + 1e-10) / (error @ error + 1e-10))


def twin_pairwise(estimates: np.ndarray, sources: np.ndarray, zero_mean: bool = True) -> np.ndarray:
    return np.array(
        [[twin_si_sdr(estimate, source, zero_mean) for estimate in estimates] for source in sources]
    )


class Twin(NamedTuple):
    """What the loss must be, by listing all permutations.

    margin: dB that the best permutation is ahead of the next.
    """

    losses: np.ndarray
    si_sdri: np.ndarray
    margin: float


def twin_losses(case: Case, improvement: bool = True) -> Twin:
    pairwise = twin_pairwise(case.estimates, case.sources)
    own = np.array([twin_si_sdr(case.mixture, source) for source in case.sources])
    rows = np.flatnonzero(case.active)
    # Of permutations that differ only in what inactive slots get, the first.
    distinct: dict[tuple, tuple[float, tuple[int, ...]]] = {}
    for order in itertools.permutations(range(len(own))):
        total = float(sum(pairwise[n, order[n]] for n in rows))
        distinct.setdefault(tuple(order[n] for n in rows), (total, order))
    ranked = sorted(distinct.values(), reverse=True)
    best = ranked[0][1]
    margin = ranked[0][0] - ranked[1][0] if len(ranked) > 1 else np.inf
    scores = pairwise[np.arange(len(own)), best]
    power = np.sum(case.mixture.astype(np.float64) ** 2) or 1.0
    powers = np.sum(case.estimates[list(best)].astype(np.float64) ** 2, axis=1)
    energies = 10 * np.log10(powers / power + 1e-3)
    if rows.size == 1:
        heard, si_sdri = 10 * np.log10(10 ** (-scores / 10) + 1e-3), 0 * scores
    else:
        heard = own - scores if improvement else -scores
        si_sdri = np.where(case.active, scores - own, 0.0)
    return Twin(np.where(case.active, heard, energies), si_sdri, margin)


def assert_close(values, expected, beyond: np.ndarray | None = None) -> None:
    """Within 1e-3 dB, or 0.05 dB where `beyond` (by default expected) leaves ±60 dB."""
    values, expected = np.asarray(values), np.asarray(expected)
    far = np.abs(expected if beyond is None else beyond) > 60
    tolerance = np.where(far, 0.05, 1e-3)
    np.testing.assert_array_less(np.abs(values - expected), tolerance, f"{values}\n{expected}")


si_sdr = jax.jit(jaxsep.si_sdr, static_argnames="zero_mean")
pairwise_si_sdr = jax.jit(jaxsep.pairwise_si_sdr, static_argnames="zero_mean")
si_sdr_improvement = jax.jit(jaxsep.si_sdr_improvement)
best_permutation = jax.jit(jaxsep.best_permutation)


@partial(jax.jit, static_argnames="improvement")
def loss_and_gradient(estimates, sources, mixture, active, improvement=True):
    """(losses [N], si_sdri [N]), gradient of the losses' sum [N, T]."""

    def total(estimates):
        losses, si_sdri = separation_losses(
            estimates, sources, mixture, active=active, improvement=improvement
        )
        return jnp.sum(losses), (losses, si_sdri)

    gradient, values = jax.grad(total, has_aux=True)(estimates)
    return values, gradient


@pytest.mark.parametrize("zero_mean", [True, False])
@EXAMPLES
@given(case=cases())
def test_si_sdr_is_that_of_a_float64_twin(zero_mean, case):
    expected = twin_pairwise(case.estimates, case.sources, zero_mean)
    pairwise = np.asarray(pairwise_si_sdr(case.estimates, case.sources, zero_mean=zero_mean))
    assert_close(pairwise, expected)
    assert np.all(np.abs(pairwise) <= 100.0001)  # one rounding of float32 beyond
    assert_close(si_sdr(case.estimates, case.sources, zero_mean=zero_mean), np.diagonal(expected))


@EXAMPLES
@given(case=cases(), improvement=st.booleans())
def test_losses_are_those_of_a_float64_twin_and_their_gradients_finite(case, improvement):
    (losses, si_sdri), gradient = loss_and_gradient(*case, improvement=improvement)
    assert np.all(np.isfinite(losses))
    assert np.all(np.isfinite(si_sdri))
    assert np.all(np.isfinite(gradient))
    expected = twin_losses(case, improvement)
    scores = np.abs(expected.losses).max()  # a sum of scores is as exact as the largest of them
    np.testing.assert_array_equal(np.asarray(si_sdri)[~case.active], 0.0)
    if expected.margin > 0.2:
        beyond = np.abs(twin_pairwise(case.estimates, case.sources)).max() > 60
        far = np.full(len(losses), 100.0 if beyond else scores)
        assert_close(si_sdri, expected.si_sdri, beyond=far)
        # Several slots without sound share what is left in any order.
        heard = case.active | (np.sum(~case.active) == 1)
        assert_close(np.asarray(losses)[heard], expected.losses[heard], beyond=far[heard])
        assert_close(np.sum(losses), np.sum(expected.losses), beyond=far.max())


@EXAMPLES
@given(case=cases(), seed=st.integers(0, 99))
def test_the_order_of_sources_and_of_estimates_is_of_no_account(case, seed):
    rng = np.random.default_rng(seed)
    count = len(case.sources)
    order = rng.permutation(count)
    pairwise = pairwise_si_sdr(case.estimates, case.sources)
    np.testing.assert_array_equal(
        pairwise_si_sdr(case.estimates, case.sources[order]), np.asarray(pairwise)[order]
    )
    np.testing.assert_array_equal(
        pairwise_si_sdr(case.estimates[order], case.sources), np.asarray(pairwise)[:, order]
    )
    (losses, si_sdri), gradient = jax.tree.map(np.asarray, loss_and_gradient(*case))
    shuffled = case._replace(sources=case.sources[order], active=case.active[order])
    moved = case._replace(estimates=case.estimates[order])
    of_shuffled, of_moved = (
        jax.tree.map(np.asarray, loss_and_gradient(*changed)) for changed in (shuffled, moved)
    )
    # Any of several best permutations may be taken: they share the sum over the active sources.
    total = np.sum(losses[case.active])
    assert np.sum(of_shuffled[0][0][shuffled.active]) == pytest.approx(total, abs=1e-3)
    assert np.sum(of_moved[0][0][case.active]) == pytest.approx(total, abs=1e-3)
    if twin_losses(case).margin > 0.2:
        np.testing.assert_allclose(of_shuffled[0][1], si_sdri[order], rtol=0, atol=1e-3)
        np.testing.assert_allclose(of_moved[0][1], si_sdri, rtol=0, atol=1e-3)
        if np.sum(~case.active) < 2:  # several inactive slots share what is left in any order
            np.testing.assert_allclose(of_shuffled[0][0], losses[order], rtol=0, atol=1e-3)
            np.testing.assert_allclose(of_moved[0][0], losses, rtol=0, atol=1e-3)
            largest = np.abs(gradient).max()
            np.testing.assert_allclose(of_shuffled[1], gradient, rtol=1e-3, atol=1e-3 * largest)
            np.testing.assert_allclose(of_moved[1], gradient[order], rtol=1e-3, atol=1e-3 * largest)


@EXAMPLES
@given(case=cases(shapes=SHAPES[:4]))
def test_permutation_scores_and_improvement_fit_together(case):
    pairwise = pairwise_si_sdr(case.estimates, case.sources)
    permutation, scores = best_permutation(pairwise, active=case.active)
    assert sorted(np.asarray(permutation)) == list(range(len(case.sources)))
    rows = np.arange(len(case.sources))
    np.testing.assert_array_equal(
        scores, np.where(case.active, np.asarray(pairwise)[rows, permutation], 0.0)
    )
    totals = [
        float(np.sum(np.asarray(pairwise, np.float64)[rows, order][case.active]))
        for order in map(list, itertools.permutations(rows))
    ]
    assert float(np.sum(np.asarray(scores, np.float64))) == pytest.approx(max(totals), abs=1e-3)
    improvement = si_sdr_improvement(case.estimates, case.sources, case.mixture, active=case.active)
    own = si_sdr(np.broadcast_to(case.mixture, case.sources.shape), case.sources)
    np.testing.assert_allclose(
        improvement, np.where(case.active, scores - own, 0.0), rtol=0, atol=1e-3
    )


@EXAMPLES
@given(
    case=cases(shapes=SHAPES[2:3], largest=0, offsets=(0, 10)),
    dtype=st.sampled_from(["bfloat16", "float16"]),
)
def test_low_precision_is_computed_in_float32_throughout(case, dtype):
    estimates, mixture = jnp.asarray(case.estimates, dtype), jnp.asarray(case.mixture, dtype)
    low = case._replace(estimates=estimates, mixture=mixture)
    wide = case._replace(
        estimates=estimates.astype(jnp.float32), mixture=mixture.astype(jnp.float32)
    )
    (losses, si_sdri), gradient = loss_and_gradient(*low)
    (expected, expected_si_sdri), _ = loss_and_gradient(*wide)
    assert losses.dtype == jnp.float32
    assert gradient.dtype == dtype
    # Another program may round otherwise; bfloat16 itself would be off by tenths of a dB.
    assert_close(losses, expected)
    assert_close(si_sdri, expected_si_sdri, beyond=np.full(len(losses), np.abs(expected).max()))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-20, 1.0, 1e18, 1e20, 1e30])
@pytest.mark.parametrize("mixture_scale", [0.0, 1e-20, 1.0, 1e20])
@pytest.mark.parametrize("tolerance_db", [1e-3])
def test_signals_whose_squares_leave_float32_give_finite_losses_and_gradients(
    scale, mixture_scale, tolerance_db
):
    rng = np.random.default_rng(0)
    sources, noise = rng.standard_normal((2, 3, 64))
    active = np.array([True, False, True])
    sources = (mixture_scale * active[:, None] * sources).astype(np.float32)
    estimates = (scale * (noise + sources / max(mixture_scale, 1e-30))).astype(np.float32)
    case = Case(estimates, sources, sources.sum(axis=0), active)
    (losses, _), gradient = loss_and_gradient(*case)
    assert np.all(np.isfinite(gradient))
    np.testing.assert_allclose(losses, twin_losses(case).losses, rtol=0, atol=tolerance_db)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("slot", [0, 1])
def test_a_non_finite_estimate_is_never_read_as_silence(value, slot):
    """Its loss and gradient are non-finite too, so that training skips a step on it."""
    sources = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    estimates = sources + np.float32(0.1)
    estimates[slot, 3] = value
    for active in ([True, True], [True, False], [False, True]):
        mask = np.array(active)
        case = Case(estimates, sources * mask[:, None], (sources * mask[:, None]).sum(axis=0), mask)
        (losses, _), gradient = loss_and_gradient(*case)
        assert not np.all(np.isfinite(losses))
        assert not np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
    ("family", "granularity"), [("original", "example"), ("improved", "source")]
)
def test_gradients_of_a_network_are_finite_on_mixtures_of_nothing(family, granularity):
    """A silent mixture, a constant one, and one sound alone, beside a mixture of two sounds."""
    module, params = network(family)
    sources = np.random.default_rng(0).standard_normal((4, 2, 400)).astype(np.float32)
    sources[:2], sources[2, 1] = 0, 0
    mixture = sources.sum(axis=1)
    mixture[1] = 0.5
    active = np.any(sources != 0, axis=2)
    batch = {"mixture": mixture, "sources": sources, "active": active}
    loss_fn = separation_loss_fn(module.apply, granularity=granularity)

    @jax.jit
    def of(params):
        losses, aux = loss_fn(params, batch)
        return jnp.sum(losses), (losses, aux["si_sdri"])

    gradient, (losses, si_sdri) = jax.grad(of, has_aux=True)(params)
    assert np.all(np.isfinite(losses))
    # NaN where there can be no improvement.
    np.testing.assert_array_equal(np.isfinite(si_sdri), [False, False, False, True])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))

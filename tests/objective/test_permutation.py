"""Permutation search against SciPy's assignment; losses of active, lone and inactive sources."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import jaxsep
from jaxsep.objective.permutation import separation_losses

best_permutation = jax.jit(jaxsep.best_permutation)


def scores(num_sources: int) -> np.ndarray:
    shape = (20, num_sources, num_sources)
    return np.random.default_rng(num_sources).uniform(-30, 30, shape).astype(np.float32)


@pytest.mark.parametrize("num_sources", range(1, 9))
@pytest.mark.parametrize("inactive", [False, True])
def test_finds_the_best_assignment_of_the_active_sources(num_sources, inactive):
    pairwise = scores(num_sources)
    active = np.ones((20, num_sources), bool)
    if inactive:
        active[:, 1:] = np.random.default_rng(8).random((20, num_sources - 1)) < 0.6
    permutation, best = map(np.asarray, best_permutation(pairwise, active=active))
    np.testing.assert_array_equal(np.sort(permutation), [range(num_sources)] * 20)
    np.testing.assert_array_equal(best[~active], 0.0)
    for matrix, mask, chosen, values in zip(pairwise, active, permutation, best, strict=True):
        rows, columns = linear_sum_assignment(matrix[mask], maximize=True)
        np.testing.assert_array_equal(chosen[mask], columns)
        np.testing.assert_array_equal(values[mask], matrix[mask][rows, columns])


@pytest.mark.parametrize("num_sources", [4, 5, 8])
def test_equal_and_non_finite_scores_end_in_a_permutation(num_sources):
    pairwise = np.full((6, num_sources, num_sources), -100, np.float32)
    pairwise[1, 0], pairwise[2, 1, 2] = np.nan, np.nan
    pairwise[3, :, 1], pairwise[4, 2, 2], pairwise[5] = np.inf, -np.inf, 3e38
    permutation, best = map(np.asarray, best_permutation(pairwise))
    np.testing.assert_array_equal(np.sort(permutation), [range(num_sources)] * 6)
    taken = np.take_along_axis(pairwise, permutation[..., None], axis=-1)[..., 0]
    np.testing.assert_array_equal(best, taken)
    assert np.isnan(best[1, 0])


def test_gradients_flow_through_the_scores_alone():
    pairwise = scores(5)[0]
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(jaxsep.best_permutation(p)[1])))(pairwise)
    rows, columns = linear_sum_assignment(pairwise, maximize=True)
    expected = np.zeros((5, 5))
    expected[rows, columns] = 1.0
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize(
    ("shape", "message"), [((2, 3), "N, N"), ((9, 9), "1 to 8"), ((4,), "N, N")]
)
def test_other_shapes_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        jaxsep.best_permutation(jnp.zeros(shape))


def mixture_of(num_sources: int, silent: tuple[int, ...] = (), seed: int = 0):
    rng = np.random.default_rng(seed)
    sources = rng.standard_normal((num_sources, 2000)).astype(np.float32)
    for slot in silent:
        sources[slot] = 0
    estimates = sources[::-1] + 0.5 * rng.standard_normal(sources.shape).astype(np.float32)
    return (
        estimates,
        sources,
        sources.sum(0),
        np.array([n not in silent for n in range(num_sources)]),
    )


def test_loss_is_the_negative_improvement():
    estimates, sources, mixture, active = mixture_of(3)
    losses, si_sdri = separation_losses(estimates, sources, mixture, active=active)
    np.testing.assert_array_equal(losses, -si_sdri)
    np.testing.assert_allclose(
        si_sdri, jaxsep.si_sdr_improvement(estimates, sources, mixture), atol=1e-5
    )
    plain, _ = separation_losses(estimates, sources, mixture, active=active, improvement=False)
    np.testing.assert_allclose(plain, losses - jaxsep.si_sdr(mixture[None], sources), atol=1e-4)


def test_inactive_slot_is_charged_the_energy_of_its_estimate():
    estimates, sources, mixture, active = mixture_of(3, silent=(1,))
    estimates[1] *= 0.1
    losses, si_sdri = separation_losses(estimates, sources, mixture, active=active)
    energy = 10 * np.log10(np.sum(estimates[1] ** 2) / np.sum(mixture**2) + 1e-3)
    assert losses[1] == pytest.approx(energy, abs=1e-4)
    assert si_sdri[1] == 0.0
    without = separation_losses(estimates[[0, 2]], sources[[0, 2]], mixture)[0]
    np.testing.assert_allclose(np.asarray(losses)[[0, 2]], without, atol=1e-4)


@pytest.mark.parametrize(("noise", "tolerance_db"), [(0.0, 1e-3), (0.1, 1e-3), (3.0, 1e-3)])
def test_lone_source_is_bounded_and_without_improvement(noise, tolerance_db):
    _, sources, mixture, active = mixture_of(2, silent=(1,))
    estimates = np.stack(
        [np.zeros_like(mixture), mixture + noise * np.random.default_rng(3).standard_normal(2000)]
    )
    losses, si_sdri = separation_losses(
        estimates.astype(np.float32), sources, mixture, active=active
    )
    score = jaxsep.si_sdr(estimates[1].astype(np.float32), sources[0])
    assert losses[0] == pytest.approx(
        10 * np.log10(10 ** (-float(score) / 10) + 1e-3), abs=tolerance_db
    )
    assert losses[1] == pytest.approx(-30.0, abs=tolerance_db)
    np.testing.assert_array_equal(si_sdri, 0.0)


def test_gradients_are_finite_with_silence_everywhere():
    silence = jnp.zeros((2, 100))
    gradient = jax.grad(
        lambda e: separation_losses(e, silence, silence[0], active=jnp.array([True, False]))[
            0
        ].sum()
    )
    assert np.all(np.isfinite(gradient(silence)))


def test_a_silent_source_marked_active_scores_nothing():
    estimates, sources, mixture, _ = mixture_of(2, silent=(1,))
    improvement = jaxsep.si_sdr_improvement(estimates, sources, mixture)
    assert improvement[1] == 0.0

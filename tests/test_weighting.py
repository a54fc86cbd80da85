"""Weights against the authors' class loss and closed forms: sums, shapes, gradients, equality with uniform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep import weighting
from jaxsep.objective.permutation import separation_losses

LOSSES = np.array([[-12.0, 3.0], [0.5, -7.0], [9.0, 1.0]], np.float32)
CLASSES = np.array([[0, 2], [1, 2], [0, -1]], np.int32)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return exponentials / exponentials.sum()


@pytest.mark.parametrize(("part", "tolerance"), [("loss", 1e-4), ("grad_estimates", 1e-4)])
def test_class_bias_per_source_is_the_authors(reference_dir, part, tolerance):
    stored = np.load(reference_dir / "class_reweighting.npz")
    weigh = weighting.class_bias(stored["gamma"])

    def objective(estimates):
        losses, _ = separation_losses(estimates, stored["sources"], stored["mixture"])
        return jnp.sum(weigh(losses, stored["class_ids"], 0) * losses)

    loss, gradient = jax.value_and_grad(objective)(stored["estimates"])
    found = {"loss": loss, "grad_estimates": gradient}[part]
    assert np.linalg.norm(found - stored[part]) <= tolerance * np.linalg.norm(stored[part])


GAMMA = np.array([0.0, 3.0, -1.0])
BETA = weighting.paper_beta(100)
CASES = [
    ("uniform", weighting.uniform(), 0 * LOSSES),
    ("robust", weighting.robust(0.2), 0.2 * LOSSES),
    ("curriculum", weighting.curriculum(BETA), -LOSSES / 20.0),
    ("class_bias", weighting.class_bias(GAMMA), np.array([[0.0, -1.0], [3.0, -1.0], [0.0, 0.0]])),
    ("softmax", weighting.softmax(lambda losses, ids, epoch, *, batch=None: losses**2 / 50), LOSSES**2 / 50),
    ("product", weighting.product(weighting.robust(0.1), weighting.robust(0.05)), 0.15 * LOSSES),
]


@pytest.mark.parametrize(("name", "weigh", "logits"), CASES, ids=[case[0] for case in CASES])
def test_weights_are_the_softmax_over_all_losses(name, weigh, logits):
    weights = jax.jit(weigh)(LOSSES, CLASSES, 20)
    assert weights.shape == LOSSES.shape
    np.testing.assert_allclose(weights, softmax(logits), rtol=1e-5)
    np.testing.assert_allclose(
        weigh.logits(jnp.asarray(LOSSES), jnp.asarray(CLASSES), 20), logits, rtol=1e-5, atol=1e-6
    )


def test_class_logit_of_an_example_is_the_mean_over_its_active_sources():
    weights = weighting.class_bias(GAMMA)(LOSSES.mean(axis=1), CLASSES, 0)
    np.testing.assert_allclose(weights, softmax(np.array([-0.5, 1.0, 0.0])), rtol=1e-5)


@pytest.mark.parametrize("weigh", [weighting.robust(0.0), weighting.curriculum(lambda epoch: 0.0)])
def test_alpha_and_beta_zero_are_uniform_exactly(weigh):
    np.testing.assert_array_equal(weigh(LOSSES, None, 3), weighting.uniform()(LOSSES, None, 3))
    np.testing.assert_array_equal(weigh(LOSSES, None, 3), np.full_like(LOSSES, np.float32(1) / np.float32(6)))


def test_beta_runs_over_a_hundred_at_any_number_of_epochs():
    few, many = weighting.paper_beta(8), weighting.paper_beta(100)
    assert [few(epoch) for epoch in range(8)] == [many(kappa) for kappa in (0, 12, 25, 37, 50, 62, 75, 87)]
    assert many(0) == -0.1
    assert many(99) == -1 / 59.5


@pytest.mark.parametrize("weigh", [case[1] for case in CASES], ids=[case[0] for case in CASES])
def test_weights_carry_no_gradient(weigh):
    losses = jnp.asarray(LOSSES)
    gradient = jax.grad(lambda values: jnp.sum(weigh(values, CLASSES, 0) * values))(losses)
    np.testing.assert_allclose(gradient, weigh(losses, CLASSES, 0), rtol=1e-6)


@pytest.mark.parametrize("mass", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0], [-1.0, 3.0]])
def test_without_mass_the_weights_are_uniform_and_it_is_told(mass):
    weights, no_mass = weighting.pmf(jnp.array(mass))
    np.testing.assert_array_equal(weights, 0.5)
    assert no_mass


def test_product_with_a_function_multiplies_and_renormalises():
    def hardest_half(losses, class_ids, epoch, *, batch=None):
        keep = losses >= jnp.median(losses)
        return keep / jnp.sum(keep)

    weights = weighting.product(weighting.robust(0.1), hardest_half)(jnp.asarray(LOSSES), None, 0)
    kept = np.exp(0.1 * LOSSES) * (np.median(LOSSES) <= LOSSES)
    np.testing.assert_allclose(weights, kept / kept.sum(), rtol=1e-5)


def test_effective_sample_size_runs_from_one_to_the_number_of_weights():
    assert weighting.effective_sample_size(jnp.array([1.0, 0.0, 0.0, 0.0])) == 1.0
    assert weighting.effective_sample_size(jnp.full(4, 0.25)) == 4.0


def test_negative_alpha_is_refused_by_name():
    with pytest.raises(ValueError, match=r"alpha must be 0 or more, got -0\.1"):
        weighting.robust(-0.1)
    with pytest.raises(ValueError, match="at least one"):
        weighting.product()

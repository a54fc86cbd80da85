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
    (
        "softmax",
        weighting.softmax(lambda losses, ids, epoch, *, batch=None: losses**2 / 50),
        LOSSES**2 / 50,
    ),
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
    np.testing.assert_array_equal(
        weigh(LOSSES, None, 3), np.full_like(LOSSES, np.float32(1) / np.float32(6))
    )


def test_beta_runs_over_a_hundred_at_any_number_of_epochs():
    few, many = weighting.paper_beta(8), weighting.paper_beta(100)
    assert [few(epoch) for epoch in range(8)] == [
        many(kappa) for kappa in (0, 12, 25, 37, 50, 62, 75, 87)
    ]
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


def test_robust_has_the_gradient_of_the_tilted_risk():
    """∇ (1/α) log mean exp(α·L) = Σ softmax(α·L) ∇L, here for losses that are quadratic in two parameters."""
    rng = np.random.default_rng(0)
    centres, alpha = jnp.asarray(rng.standard_normal((6, 2))), 0.3

    def losses(params):
        return jnp.sum(jnp.square(params[None] - centres), axis=1) * 5

    def tilted(params):
        return jax.nn.logsumexp(alpha * losses(params)) / alpha

    def weighted(params):
        values = losses(params)
        return jnp.sum(weighting.robust(alpha)(values, None, 0) * values)

    params = jnp.array([0.3, -0.2])
    np.testing.assert_allclose(jax.grad(weighted)(params), jax.grad(tilted)(params), rtol=1e-5)
    assert (
        np.linalg.norm(jax.grad(lambda p: jnp.mean(losses(p)))(params) - jax.grad(tilted)(params))
        > 0.1
    )


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (1.0, [[1 / 6, 1 / 6], [1 / 6, 1 / 6], [1 / 6, 1 / 6]]),
        (0.5, [[0, 1 / 3], [0, 0], [1 / 3, 1 / 3]]),
        (0.25, [[0, 1 / 1.5], [0, 0], [0.5 / 1.5, 0]]),
        (0.01, [[0, 1], [0, 0], [0, 0]]),
    ],
)
def test_cvar_is_uniform_on_the_worst_fraction(fraction, expected):
    """The mean over the worst share is the smallest of t + mean(max(L − t, 0))/q over t (Rockafellar, Uryasev 2000)."""
    losses = np.array([[-12.0, 30.0], [0.5, -7.0], [9.0, 1.0]])
    weights = jax.jit(weighting.cvar(fraction))(losses, None, 0)
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    thresholds = np.linspace(-20, 40, 60001)
    risks = thresholds + np.maximum(losses.ravel()[:, None] - thresholds, 0).mean(0) / max(
        fraction, 1 / 6
    )
    assert float(np.sum(weights * losses)) == pytest.approx(risks.min(), abs=1e-2)


def test_threshold_drops_what_is_good_enough():
    weights = weighting.threshold(5.0)(jnp.asarray(LOSSES), None, 0)
    np.testing.assert_allclose(weights, [[0, 0.25], [0.25, 0], [0.25, 0.25]])
    everything, no_mass = weighting.pmf(
        weighting.threshold(-20.0).mass(jnp.asarray(LOSSES), None, 0)
    )
    np.testing.assert_allclose(everything, 1 / 6)
    assert no_mass


def dro_by_loops(q, losses, class_ids, groups, step_size):
    """Algorithm 1 of Sagawa et al. (ICLR 2020), per source: every group of the batch updated, by its loss less their mean."""
    members = {g: [] for g in range(len(q))}
    for place, class_id in np.ndenumerate(class_ids):
        members[groups[class_id] if class_id >= 0 else len(q) - 1].append(place)
    means = {
        g: np.mean([losses[place] for place in places]) for g, places in members.items() if places
    }
    for g, mean in means.items():
        q[g] *= np.exp(step_size * (mean - np.mean(list(means.values()))))
    q = q / q.sum()
    mass = np.zeros(losses.shape)
    for g, places in members.items():
        for place in places:
            mass[place] = q[g] / len(places) / sum(q[g] for g in means)
    return q, mass


def test_group_dro_is_the_loop_over_groups_step_after_step():
    groups = np.array([0, 0, 1, 2])
    weigh = weighting.group_dro(groups, step_size=0.1)
    log_q, q = weigh.init(), np.full(4, 0.25)
    for scale in (1.0, -0.5, 2.0):
        mass, log_q = jax.jit(weigh.update)(log_q, scale * LOSSES, CLASSES, 0)
        q, expected = dro_by_loops(q, scale * LOSSES, CLASSES, groups, 0.1)
        np.testing.assert_allclose(np.exp(log_q), q, rtol=1e-5)
        np.testing.assert_allclose(mass, expected, rtol=1e-5)
    assert np.ptp(q) > 0.1


def test_group_dro_lasts_where_losses_are_negative_and_groups_absent():
    """Thousands of steps at SI-SDRi of 8 to 9 dB; the last group, and slots without sound, never occur."""
    weigh = weighting.group_dro([0, 1, 2], step_size=0.01)
    class_ids, losses = jnp.array([[0, 1], [1, 0]]), jnp.array([[-8.0, -9.0], [-9.0, -8.0]])

    def step(log_q, _):
        mass, log_q = weigh.update(log_q, losses, class_ids, 0)
        return log_q, mass

    log_q, masses = jax.lax.scan(step, weigh.init(), None, length=20_000)
    first, last = masses[0], masses[-1]
    np.testing.assert_allclose(first[0, 0] / first[0, 1], np.exp(0.01), rtol=1e-3)
    np.testing.assert_allclose(last, [[0.5, 0.0], [0.0, 0.5]], atol=1e-6)
    assert np.isfinite(log_q).all()
    equal, _ = jax.lax.scan(
        lambda q, _: (weigh.update(q, 0 * losses - 8, class_ids, 0)[1], None),
        weigh.init(),
        None,
        20_000,
    )
    np.testing.assert_allclose(np.exp(equal), 0.25, rtol=1e-3)


def test_group_dro_per_example_sums_over_the_sources_of_a_mixture():
    groups, losses = np.array([0, 0, 1, 2]), LOSSES.mean(axis=1)
    weigh = weighting.group_dro(groups, step_size=0.1)
    mass, log_q = weigh.update(weigh.init(), jnp.asarray(losses), jnp.asarray(CLASSES), 0)
    q, expected = dro_by_loops(
        np.full(4, 0.25), np.broadcast_to(losses[:, None], (3, 2)), CLASSES, groups, 0.1
    )
    np.testing.assert_allclose(mass, expected.sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(np.exp(log_q), q, rtol=1e-5)


def test_product_carries_the_memory_of_its_factors():
    groups = np.array([0, 0, 1, 2])
    dro, robust = weighting.group_dro(groups, step_size=0.1), weighting.robust(0.1)
    both = weighting.product(robust, dro)
    mass, states = both.update(both.init(), jnp.asarray(LOSSES), jnp.asarray(CLASSES), 0)
    alone, state = dro.update(dro.init(), jnp.asarray(LOSSES), jnp.asarray(CLASSES), 0)
    np.testing.assert_allclose(
        weighting.pmf(mass)[0], weighting.pmf(alone * robust(LOSSES, CLASSES, 0))[0], rtol=1e-5
    )
    np.testing.assert_array_equal(states[1], state)


def test_mean_weight_of_classes_is_one_in_ordinary_training():
    chosen = np.array([True, False, False])
    uniform = weighting.uniform()(jnp.asarray(LOSSES), None, 0)
    assert weighting.mean_weight(uniform, CLASSES, chosen) == pytest.approx(1.0)
    weights = jnp.array([[0.5, 0.0], [0.1, 0.0], [0.3, 0.1]])
    assert weighting.mean_weight(weights, CLASSES, chosen) == pytest.approx(6 * (0.5 + 0.3) / 2)
    assert weighting.mean_weight(jnp.array([0.5, 0.2, 0.3]), CLASSES, chosen) == pytest.approx(
        3 * (0.5 + 0.3) / 2
    )
    assert weighting.mean_weight(uniform, CLASSES, np.zeros(3, bool)) == 0.0


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5])
def test_impossible_fractions_and_steps_are_refused_by_name(fraction):
    with pytest.raises(ValueError, match=f"fraction must be above 0 and at most 1, got {fraction}"):
        weighting.cvar(fraction)
    with pytest.raises(ValueError, match="step_size must be above 0"):
        weighting.group_dro([0], step_size=-1.0)

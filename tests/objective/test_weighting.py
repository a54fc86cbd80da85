"""Weights against the authors' class loss and closed forms: sums, shapes, gradients, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep import weighting
from jaxsep.objective.permutation import separation_losses
from jaxsep.objective.pmf import mean_weight, pmf, weight_statistics

LOSSES = np.array([[-12.0, 3.0], [0.5, -7.0], [9.0, 1.0]], np.float32)
CLASSES = np.array([[0, 2], [1, 2], [0, -1]], np.int32)
GAMMA = np.array([0.0, 3.0, -1.0])
GROUPS = np.array([0, 0, 1, 2])


def softmax(logits):
    exponentials = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return exponentials / exponentials.sum()


def squared(losses, class_ids, epoch, *, batch=None):
    return losses**2 / 50


def worse_half(losses, class_ids, epoch, *, batch=None):
    return losses >= jnp.median(losses)


@pytest.mark.parametrize("tolerance", [1e-4])
def test_class_bias_per_source_is_the_authors(reference_dir, tolerance):
    stored = np.load(reference_dir / "class_reweighting.npz")
    weigh = weighting.class_bias(stored["gamma"])

    def objective(estimates):
        losses, _ = separation_losses(estimates, stored["sources"], stored["mixture"])
        return jnp.sum(weigh(losses, stored["class_ids"], 0) * losses)

    loss, gradient = jax.jit(jax.value_and_grad(objective))(stored["estimates"])
    for value, name in ((loss, "loss"), (gradient, "grad_estimates")):
        assert np.linalg.norm(value - stored[name]) <= tolerance * np.linalg.norm(stored[name])


CASES = {
    "uniform": (weighting.uniform(), 0 * LOSSES),
    "robust": (weighting.robust(0.2), 0.2 * LOSSES),
    "curriculum": (weighting.curriculum(weighting.paper_beta(100)), -LOSSES / 20.0),
    "class_bias": (weighting.class_bias(GAMMA), [[0.0, -1.0], [3.0, -1.0], [0.0, 0.0]]),
    "from_logits": (weighting.from_logits(squared), LOSSES**2 / 50),
    "from_mass": (weighting.from_mass(squared), np.log(LOSSES**2 / 50)),
    "threshold": (weighting.threshold(5.0), np.where(LOSSES > -5, 0, -np.inf)),
    "product": (
        weighting.product(weighting.robust(0.1), weighting.robust(0.05)),
        0.15 * LOSSES,
    ),
    "product with a function": (
        weighting.product(weighting.robust(0.1), worse_half),
        np.where(np.median(LOSSES) <= LOSSES, 0.1 * LOSSES, -np.inf),
    ),
}


@pytest.mark.parametrize(("weigh", "logits"), CASES.values(), ids=CASES)
def test_weights_are_the_softmax_over_all_losses_without_a_gradient(weigh, logits):
    weights = jax.jit(weigh)(LOSSES, CLASSES, 20)
    assert weights.shape == LOSSES.shape
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights, softmax(logits), rtol=1e-5)
    ours, _ = weigh.logits(LOSSES, weigh.init(), epoch=20, class_ids=CLASSES)
    np.testing.assert_allclose(ours, logits, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(weigh(x, CLASSES, 20) * x))(jnp.asarray(LOSSES))
    np.testing.assert_allclose(gradient, weights, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", CASES)
def test_losses_of_low_precision_are_weighed_in_float32(name, dtype):
    weigh, low = CASES[name][0], jnp.asarray(LOSSES / 3, dtype)
    weights = weigh(low, CLASSES, 20)
    np.testing.assert_array_equal(weights, weigh(low.astype(jnp.float32), CLASSES, 20))


def test_class_logit_of_an_example_is_the_mean_over_its_active_sources():
    weights = weighting.class_bias(GAMMA)(LOSSES.mean(axis=1), CLASSES, 0)
    np.testing.assert_allclose(weights, softmax(np.array([-0.5, 1.0, 0.0])), rtol=1e-5)


@pytest.mark.parametrize("weigh", [weighting.robust(0.0), weighting.curriculum(lambda epoch: 0.0)])
def test_alpha_and_beta_zero_are_uniform_exactly(weigh):
    sixth = np.full_like(LOSSES, np.float32(1) / np.float32(6))
    np.testing.assert_array_equal(weigh(LOSSES, None, 3), sixth)
    np.testing.assert_array_equal(weighting.uniform()(LOSSES, None, 3), sixth)


def test_beta_runs_over_a_hundred_at_any_number_of_epochs():
    few, many = weighting.paper_beta(8), weighting.paper_beta(100)
    kappas = (0, 12, 25, 37, 50, 62, 75, 87)
    assert [few(epoch) for epoch in range(8)] == [many(kappa) for kappa in kappas]
    assert many(0) == -0.1
    assert many(99) == -1 / 59.5


@pytest.mark.parametrize("mass", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0], [-1.0, 3.0]])
def test_without_mass_the_weights_are_uniform_and_training_can_count_it(mass):
    weigh = weighting.from_mass(lambda losses, class_ids, epoch, *, batch=None: losses)
    weights, no_mass = pmf(weigh.logits(jnp.array(mass), (), epoch=0)[0])
    np.testing.assert_array_equal(weights, 0.5)
    assert no_mass


def test_a_weighting_sees_only_the_entries_of_the_batch_that_it_needs():
    def loud(losses, class_ids, epoch, *, batch=None):
        return jnp.mean(jnp.square(batch["mixture"]), axis=-1)

    losses, batch = jnp.zeros(2), {"mixture": jnp.array([[1.0, 1.0], [2.0, 2.0]])}
    weights = weighting.from_mass(loud)(losses, None, 0, batch=batch)
    np.testing.assert_allclose(weights, [0.2, 0.8], rtol=1e-6)
    named = weighting.from_mass(loud, needs=("mixture",))
    assert weighting.product(weighting.robust(0.1), named).needs == ("mixture",)
    unnamed = weighting.product(named, weighting.from_mass(loud, needs=("snr",)))
    with pytest.raises(LookupError, match=r"reads batch\['mixture'\] but needs only \('snr',\)"):
        unnamed.logits(losses, unnamed.init(), epoch=0, batch=batch)


@pytest.mark.parametrize("ask", [lambda b: b.get("x"), lambda b: "x" in b, lambda b: b["x"]])
def test_no_way_of_asking_for_an_unnamed_entry_is_silent(ask):
    def asking(losses, class_ids, epoch, *, batch=None):
        ask(batch)
        return losses

    with pytest.raises(LookupError, match=r"add 'x' to its needs"):
        weighting.from_logits(asking)(jnp.zeros(2), None, 0, batch={"x": jnp.zeros(2)})


def test_mistakes_are_refused_by_name():
    with pytest.raises(ValueError, match=r"alpha must be 0 or more, got -0\.1"):
        weighting.robust(-0.1)
    with pytest.raises(ValueError, match="at least one"):
        weighting.product()
    for fraction in (0.0, -0.1, 1.5):
        with pytest.raises(ValueError, match=f"above 0 and at most 1, got {fraction}"):
            weighting.cvar(fraction)
    with pytest.raises(ValueError, match="step_size must be above 0"):
        weighting.group_dro([0], step_size=-1.0)
    with pytest.raises(TypeError, match="has memory"):
        weighting.group_dro([0])(jnp.zeros(1), jnp.zeros((1, 1), int), 0)
    with pytest.raises(ValueError, match=r"shape \(\), it must be that of the losses, \(2,\)"):
        weighting.from_mass(lambda losses, ids, epoch, *, batch=None: losses.sum())(
            jnp.ones(2), None, 0
        )


def test_robust_has_the_gradient_of_the_tilted_risk():
    """∇ (1/α) log mean exp(α·L) = Σ softmax(α·L) ∇L, for losses quadratic in two parameters."""
    centres, alpha = jnp.asarray(np.random.default_rng(0).standard_normal((6, 2))), 0.3

    def losses(params):
        return jnp.sum(jnp.square(params[None] - centres), axis=1) * 5

    def tilted(params):
        return jax.nn.logsumexp(alpha * losses(params)) / alpha

    def weighted(params):
        values = losses(params)
        return jnp.sum(weighting.robust(alpha)(values, None, 0) * values)

    params = jnp.array([0.3, -0.2])
    expected = jax.grad(tilted)(params)
    np.testing.assert_allclose(jax.grad(weighted)(params), expected, rtol=1e-5)
    assert np.linalg.norm(jax.grad(lambda p: jnp.mean(losses(p)))(params) - expected) > 0.1


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
    """The mean of the worst share is min_t t + mean(max(L − t, 0))/q (Rockafellar, Uryasev)."""
    losses = np.array([[-12.0, 30.0], [0.5, -7.0], [9.0, 1.0]])
    weights = jax.jit(weighting.cvar(fraction))(losses, None, 0)
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    thresholds = np.linspace(-20, 40, 60001)
    excess = np.maximum(losses.ravel()[:, None] - thresholds, 0).mean(axis=0)
    risks = thresholds + excess / max(fraction, 1 / 6)
    assert float(np.sum(weights * losses)) == pytest.approx(risks.min(), abs=1e-2)


def test_threshold_without_anything_to_learn_leaves_no_mass():
    weigh = weighting.threshold(-20.0)
    weights, no_mass = pmf(weigh.logits(LOSSES, (), epoch=0)[0])
    np.testing.assert_allclose(weights, 1 / 6)
    assert no_mass


def dro_by_loops(q, losses, class_ids, step_size):
    """Algorithm 1 of Sagawa et al., but that every group of the batch is updated at once.

    Its loss is taken less the mean over groups.
    """
    members = {g: [] for g in range(len(q))}
    for place, class_id in np.ndenumerate(class_ids):
        members[GROUPS[class_id] if class_id >= 0 else len(q) - 1].append(place)
    means = {g: np.mean([losses[p] for p in places]) for g, places in members.items() if places}
    for g, mean in means.items():
        q[g] *= np.exp(step_size * (mean - np.mean(list(means.values()))))
    q = q / q.sum()
    mass = np.zeros(losses.shape)
    for g, places in members.items():
        for place in places:
            mass[place] = q[g] / len(places) / sum(q[g] for g in means)
    return q, mass


@pytest.mark.parametrize("granularity", ["source", "example"])
def test_group_dro_is_the_loop_over_groups_step_after_step(granularity):
    weigh = weighting.group_dro(GROUPS, step_size=0.1)
    update = jax.jit(weigh.logits)
    log_q, q = weigh.init(), np.full(4, 0.25)
    for scale in (1.0, -0.5, 2.0):
        losses = scale * (LOSSES if granularity == "source" else LOSSES.mean(axis=1))
        logits, log_q = update(losses, log_q, epoch=0, class_ids=CLASSES)
        per_source = np.broadcast_to(losses.reshape(3, -1), (3, 2))
        q, expected = dro_by_loops(q, per_source, CLASSES, 0.1)
        np.testing.assert_allclose(np.exp(log_q), q, rtol=1e-5)
        expected = expected if granularity == "source" else expected.sum(axis=1)
        np.testing.assert_allclose(pmf(logits)[0], expected, rtol=1e-5)
    assert np.ptp(q) > 0.1


def test_group_dro_lasts_where_losses_are_negative_and_groups_absent():
    """20,000 steps at SI-SDRi of 8 to 9 dB; the last group and silent slots never occur."""
    weigh = weighting.group_dro([0, 1, 2], step_size=0.01)
    class_ids, losses = jnp.array([[0, 1], [1, 0]]), jnp.array([[-8.0, -9.0], [-9.0, -8.0]])

    def run(losses):
        def step(log_q, _):
            logits, log_q = weigh.logits(losses, log_q, epoch=0, class_ids=class_ids)
            return log_q, pmf(logits)[0]

        return jax.lax.scan(step, weigh.init(), None, length=20_000)

    log_q, weights = run(losses)
    np.testing.assert_allclose(weights[0][0, 0] / weights[0][0, 1], np.exp(0.01), rtol=1e-3)
    np.testing.assert_allclose(weights[-1], [[0.5, 0.0], [0.0, 0.5]], atol=1e-6)
    assert np.isfinite(log_q).all()
    equal, _ = run(0 * losses - 8)
    np.testing.assert_allclose(np.exp(equal), 0.25, rtol=1e-3)


def test_product_carries_the_memory_of_its_factors():
    dro, robust = weighting.group_dro(GROUPS, step_size=0.1), weighting.robust(0.1)
    both = weighting.product(robust, dro)
    context = {"epoch": 0, "class_ids": CLASSES}
    logits, states = both.logits(LOSSES, both.init(), **context)
    alone, state = dro.logits(LOSSES, dro.init(), **context)
    np.testing.assert_array_equal(logits, alone + 0.1 * LOSSES)
    np.testing.assert_array_equal(states[1], state)


def test_effective_sample_size_runs_from_one_to_the_number_of_weights():
    assert weight_statistics(jnp.array([1.0, 0.0, 0.0, 0.0]))["ess"] == 1.0
    assert weight_statistics(jnp.full(4, 0.25))["ess"] == 4.0


def test_mean_weight_of_classes_is_one_in_ordinary_training():
    chosen = np.array([True, False, False])
    uniform = weighting.uniform()(LOSSES, None, 0)
    assert mean_weight(uniform, CLASSES, chosen) == pytest.approx(1.0)
    weights = jnp.array([[0.5, 0.0], [0.1, 0.0], [0.3, 0.1]])
    assert mean_weight(weights, CLASSES, chosen) == pytest.approx(6 * (0.5 + 0.3) / 2)
    of_mixtures = jnp.array([0.5, 0.2, 0.3])
    assert mean_weight(of_mixtures, CLASSES, chosen) == pytest.approx(3 * (0.5 + 0.3) / 2)
    assert mean_weight(uniform, CLASSES, np.zeros(3, bool)) == 0.0

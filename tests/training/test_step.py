"""The training step on small regressions: the update is Σ p_i ∇L_i, in one pass or in parts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsep import weighting
from jaxsep.objective.pmf import as_weighting, pmf
from jaxsep.training.state import create_state, make_optimizer, make_schedule
from jaxsep.training.step import make_train_step, separation_loss_fn

X = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
TRUE = np.array([[1.0, -0.5], [-2.0, 0.3], [0.5, 1.0]], np.float32)
# Two sources of two classes, in no order that repeats.
IDS = np.array([[0, 0], [0, 0], [0, 1], [1, 1], [1, 0], [0, 0], [1, 1], [0, 1]], np.int32)
BATCH = {"x": X, "y": 3 * np.tanh(X @ TRUE), "class_ids": IDS, "snr": X[:, 0]}


def per_source(params, batch):
    return jnp.square(batch["x"] @ params["w"] + params["b"] - batch["y"])


def per_example(params, batch):
    return jnp.mean(per_source(params, batch), axis=-1)


def fresh():
    return {"w": jnp.full((3, 2), 0.1), "b": jnp.zeros((1, 2))}


def worse_half(losses, class_ids, epoch, *, batch=None):
    return losses >= jnp.median(losses)


def loud(losses, class_ids, epoch, *, batch=None):
    """A pmf that looks at the signals."""
    level = jnp.exp(batch["snr"])
    return jnp.broadcast_to(level.reshape(-1, *[1] * (losses.ndim - 1)), losses.shape)


def relative(losses, class_ids, epoch, *, batch=None):
    return losses / jnp.std(losses)


BIAS, DRO = weighting.class_bias(np.array([0.0, 3.0])), weighting.group_dro([0, 1], step_size=0.5)
WEIGHTINGS = {
    "uniform": weighting.uniform(),
    "robust": weighting.robust(0.5),
    "curriculum": weighting.curriculum(weighting.paper_beta(100)),
    "class_bias": BIAS,
    "threshold": weighting.threshold(-0.5),
    "threshold without mass": weighting.threshold(-1e3),
    "robust times class_bias": weighting.product(weighting.robust(0.3), BIAS),
    "relative": weighting.from_logits(relative),
    "cvar": weighting.cvar(0.3),
    "group_dro": DRO,
    "function": worse_half,
    "function of the signals": loud,
    "robust times function": weighting.product(weighting.robust(0.3), worse_half),
    "robust times group_dro": weighting.product(weighting.robust(0.5), DRO),
}
STREAMED = list(WEIGHTINGS)[:7]

# Hands the gradient on and remembers it.
SEEN = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params), lambda grads, state, p=None: (grads, grads)
)


@functools.cache
def losses_and_jacobian(loss_fn):
    return jax.jit(lambda params: (loss_fn(params, BATCH), jax.jacobian(loss_fn)(params, BATCH)))


@pytest.mark.parametrize("micro_batch", [0, 3])
@pytest.mark.parametrize("loss_fn", [per_example, per_source])
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_update_is_the_weighted_sum_of_gradients_step_after_step(name, loss_fn, micro_batch):
    """Whole and in micro-batches of 3, 3 and 2, also of weightings with memory."""
    weigh = as_weighting(WEIGHTINGS[name])
    assert weigh.elementwise == (name in STREAMED)
    tx = optax.chain(SEEN, make_optimizer(0.1, clip_norm=0.1))
    step = jax.jit(make_train_step(loss_fn, weigh, tx, micro_batch=micro_batch))
    state, memory = create_state(fresh(), tx, weighting=weigh), weigh.init()
    for _ in range(3):
        losses, jacobian = losses_and_jacobian(loss_fn)(state.params)
        logits, memory = weigh.logits(losses, memory, epoch=1, class_ids=IDS, batch=BATCH)
        weights = np.asarray(pmf(logits)[0])
        expected = jax.tree.map(lambda g, w=weights: np.tensordot(w, g, axes=w.ndim), jacobian)
        state, metrics = step(state, BATCH, 1)
        assert metrics["loss"] == pytest.approx(float(np.sum(weights * losses)), rel=1e-5)
        assert metrics["ess"] == pytest.approx(1 / np.sum(weights**2), rel=1e-4)
        assert metrics["no_mass"] == (name == "threshold without mass")
        norm = float(optax.tree.norm(expected))
        assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
        assert optax.tree.norm(optax.tree.sub(state.opt_state[0], expected)) < 1e-4 * norm
    for ours, theirs in zip(jax.tree.leaves(state.weighting), jax.tree.leaves(memory), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def one_gradient(weigh, loss_fn=per_example, **options):
    """The gradient that one step of plain descent applied, as a vector, and the metrics."""
    tx = optax.sgd(1.0)
    step = jax.jit(make_train_step(loss_fn, weigh, tx, **options))
    state, metrics = step(create_state(fresh(), tx, weighting=weigh), BATCH, 0)
    return vector(fresh()) - vector(state.params), metrics


def vector(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_micro_batches_larger_than_the_batch_are_the_batch():
    whole, _ = one_gradient(weighting.robust(0.5))
    np.testing.assert_allclose(
        one_gradient(weighting.robust(0.5), micro_batch=20)[0], whole, rtol=1e-4
    )


def test_a_gradient_through_the_weights_would_be_seen():
    """Were p to depend on L in the gradient, the update would differ by far more than rounding."""
    gradient, _ = one_gradient(weighting.robust(0.5))

    def leaking(params):
        losses = per_example(params, BATCH)
        return jnp.sum(jax.nn.softmax(0.5 * losses) * losses)

    wrong = vector(jax.grad(leaking)(fresh()))
    assert np.linalg.norm(gradient - wrong) > 0.1 * np.linalg.norm(gradient)


def test_micro_batches_with_their_own_softmax_would_be_seen():
    weigh = weighting.robust(0.5)
    whole, _ = one_gradient(weigh, micro_batch=2)
    naive = []
    for start in range(0, 8, 2):
        part = {name: array[start : start + 2] for name, array in BATCH.items()}
        weights = weigh(per_example(fresh(), part), None, 0)
        weighted = jax.grad(lambda p, part=part, w=weights: jnp.sum(w * per_example(p, part)))
        naive.append(vector(weighted(fresh())))
    assert np.linalg.norm(whole - np.mean(naive, axis=0)) > 0.05 * np.linalg.norm(whole)


@pytest.mark.parametrize("micro_batch", [0, 3])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_losses_of_low_precision_are_weighed_and_summed_in_float32(dtype, micro_batch):
    def low(params, batch):
        return per_example(params, batch).astype(dtype)

    weigh = weighting.robust(0.5)
    gradient, metrics = one_gradient(weigh, low, micro_batch=micro_batch)
    expected, wide = one_gradient(weigh)
    assert metrics["loss"].dtype == jnp.float32
    assert metrics["loss"] == pytest.approx(float(wide["loss"]), rel=2e-2)
    assert np.linalg.norm(gradient - expected) < 2e-2 * np.linalg.norm(expected)


def test_trains_a_regression_with_a_pmf_of_two_lines():
    batch = BATCH | {"y": X @ TRUE + 0.1}
    tx = make_optimizer(0.05, clip_norm=5.0)
    step = jax.jit(make_train_step(per_example, worse_half, tx), donate_argnums=0)
    state = create_state(fresh(), tx)
    state, first = step(state, batch, 0)  # at the end, all losses may be the same
    for _ in range(399):
        state, _ = step(state, batch, 0)
    np.testing.assert_allclose(state.params["w"], TRUE, atol=0.02)
    assert int(state.step) == 400
    assert first["ess"] <= 5


@pytest.mark.parametrize("micro_batch", [0, 3])
@pytest.mark.parametrize("weigh", [weighting.robust(0.1), DRO], ids=["streamed", "accumulated"])
@pytest.mark.parametrize("number", [np.nan, np.inf, 1e30], ids=["NaN", "inf", "gradient overflow"])
def test_a_non_finite_step_changes_nothing_but_the_count(weigh, micro_batch, number):
    tx = make_optimizer(0.05, clip_norm=5.0)
    options = {"micro_batch": micro_batch, "ema_decay": 0.5}
    step = jax.jit(make_train_step(per_source, weigh, tx, **options))
    start, _ = step(create_state(fresh(), tx, weighting=weigh, ema=True), BATCH, 0)
    broken = BATCH | {"x": np.array(X)}
    broken["x"][5, 1] = number
    after, metrics = step(start, broken, 0)
    assert metrics["skipped"] == 1.0
    assert not (np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"]))
    assert int(after.step) == 2
    uncounted = dataclasses.replace(after, step=start.step)
    for kept, before in zip(jax.tree.leaves(uncounted), jax.tree.leaves(start), strict=True):
        np.testing.assert_array_equal(kept, before)
    onward, metrics = step(after, BATCH, 0)
    assert metrics["skipped"] == 0.0
    assert np.any(onward.params["w"] != start.params["w"])


def test_clipping_acts_before_adam_and_the_norm_is_reported_before_it():
    tx = make_optimizer(1.0, clip_norm=1e-3)
    grads = {"w": jnp.full((3, 1), 100.0)}
    _, opt_state = tx.update(grads, tx.init(grads), grads)
    # Adam's first moment after one step is 0.1 × the gradient that it saw.
    assert np.linalg.norm(optax.tree.get(opt_state, "mu")) == pytest.approx(0.1 * 1e-3, rel=1e-4)


def test_frozen_parameters_stay_and_do_not_count_in_the_norm():
    tx = make_optimizer(0.1, clip_norm=1.0, frozen=(("decoder", "bias"),))
    params = {"decoder": {"bias": jnp.ones(2), "kernel": jnp.ones(2)}}
    huge = {"decoder": {"bias": jnp.full(2, 1e6), "kernel": jnp.full(2, 0.1)}}
    updates, opt_state = tx.update(huge, tx.init(params), params)
    np.testing.assert_array_equal(updates["decoder"]["bias"], 0.0)
    np.testing.assert_allclose(optax.tree.get(opt_state, "mu"), [0.0, 0.0, 0.01, 0.01], rtol=1e-5)


def test_moving_average_follows_the_parameters():
    tx = optax.sgd(0.1)
    step = make_train_step(per_example, weighting.uniform(), tx, ema_decay=0.5)
    step = jax.jit(step, donate_argnums=0)
    state, average = create_state(fresh(), tx, ema=True), vector(fresh())
    for _ in range(3):
        state, _ = step(state, BATCH, 0)
        average = 0.5 * average + 0.5 * vector(state.params)
    np.testing.assert_allclose(vector(state.eval_params), average, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [
        ("constant", 999, 1e-3),
        ("step", 39, 1e-3),
        ("step", 40, 1e-3 / 3),
        ("step", 80, 1e-3 / 9),
        ("cosine", 0, 0.0),
        ("cosine", 10, 5e-4),
        ("cosine", 20, 1e-3),
        ("cosine", 110, 5e-4),
        ("cosine", 200, 0.0),
    ],
)
def test_schedules(name, step, expected):
    schedule = make_schedule(
        name,
        1e-3,
        steps_per_epoch=10,
        num_epochs=20,
        every=4,
        divisor=3.0,
        warmup=2 if name == "cosine" else 0,
    )
    assert float(schedule(step)) == pytest.approx(expected, abs=1e-9)


def test_granularity_gives_one_loss_per_example_or_per_source():
    sources = np.random.default_rng(1).standard_normal((3, 2, 500)).astype(np.float32)
    batch = {"mixture": sources.sum(1), "sources": sources, "active": np.ones((3, 2), bool)}

    def apply_fn(variables, mixture):
        return mixture[:, None, :] * jnp.array([1.0, -0.5])[None, :, None] + 0.1 * sources

    losses, metrics = jax.jit(separation_loss_fn(apply_fn, granularity="source"))({}, batch)
    means, _ = jax.jit(separation_loss_fn(apply_fn, granularity="example"))({}, batch)
    assert losses.shape == (3, 2)
    np.testing.assert_allclose(means, np.mean(losses, axis=1), rtol=1e-5)
    np.testing.assert_allclose(metrics["si_sdri"], -means, rtol=1e-5)
    with pytest.raises(ValueError, match="granularity is 'mixture'"):
        separation_loss_fn(apply_fn, granularity="mixture")

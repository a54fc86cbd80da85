"""The training step on small regressions: the update is Σ p_i ∇L_i, whoever gives p, in one pass or in parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsep import weighting
from jaxsep.training.state import create_state, make_optimizer, make_schedule
from jaxsep.training.step import make_train_step, separation_loss_fn

X = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
TRUE = np.array([[1.0], [-2.0], [0.5]], np.float32)
BATCH = {"x": X, "y": X @ TRUE + 0.1, "class_ids": np.array([[0], [1]] * 4, np.int32)}


def squared_errors(params, batch):
    return jnp.sum(jnp.square(batch["x"] @ params["w"] + params["b"] - batch["y"]), axis=-1)


def fresh():
    return {"w": jnp.zeros((3, 1)), "b": jnp.zeros((1, 1))}


def one_gradient(weigh, **options):
    """The gradient that one step of plain descent applied, and the metrics."""
    tx = optax.sgd(1.0)
    step = jax.jit(make_train_step(squared_errors, weigh, tx, **options))
    state, metrics = step(create_state(fresh(), tx, weighting=weigh), BATCH, 0)
    return jax.tree.map(lambda before, after: before - after, fresh(), state.params), metrics


def worse_half(losses, class_ids, epoch, *, batch=None):
    return losses >= jnp.median(losses)


WEIGHTINGS = {
    "uniform": weighting.uniform(),
    "robust": weighting.robust(0.5),
    "curriculum": weighting.curriculum(weighting.paper_beta(100)),
    "class_bias": weighting.class_bias(np.array([0.0, 3.0])),
    "relative": weighting.softmax(
        lambda losses, ids, epoch, *, batch=None: losses / jnp.std(losses)
    ),
    "cvar": weighting.cvar(0.3),
    "threshold": weighting.threshold(-2.0),
    "function": worse_half,
    "robust times class_bias": weighting.product(
        weighting.robust(0.3), weighting.class_bias(np.array([0.0, 1.0]))
    ),
    "robust times function": weighting.product(weighting.robust(0.3), worse_half),
}
SINGLE_PASS = {"uniform", "robust", "curriculum", "class_bias", "robust times class_bias"}


@pytest.mark.parametrize("micro_batch", [0, 3, 20])
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_update_is_the_weighted_sum_of_per_example_gradients(name, micro_batch):
    """Whole, in even and in uneven parts."""
    weigh = WEIGHTINGS[name]
    assert getattr(weigh, "per_loss", False) == (name in SINGLE_PASS)
    gradient, metrics = one_gradient(weigh, micro_batch=micro_batch)
    losses = squared_errors(fresh(), BATCH)
    weights = np.asarray(weighting.pmf(weigh(losses, BATCH["class_ids"], 0))[0])
    each = jax.jacobian(lambda p: squared_errors(p, BATCH))(fresh())
    expected = jax.tree.map(lambda g: np.tensordot(weights, g, axes=1), each)
    for name in expected:
        np.testing.assert_allclose(gradient[name], expected[name], rtol=1e-4, atol=1e-5)
    assert metrics["loss"] == pytest.approx(float(np.sum(weights * losses)), rel=1e-5)
    assert metrics["ess"] == pytest.approx(1 / np.sum(weights**2), rel=1e-5)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in expected.values()))
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_a_gradient_through_the_weights_would_be_seen():
    """Two unequal examples: with p depending on L through the gradient the update would differ by far more than rounding."""
    gradient, _ = one_gradient(weighting.robust(0.5))

    def leaking(params):
        losses = squared_errors(params, BATCH)
        return jnp.sum(jax.nn.softmax(0.5 * losses) * losses)

    wrong = jax.grad(leaking)(fresh())
    assert np.linalg.norm(gradient["w"] - wrong["w"]) > 0.1 * np.linalg.norm(gradient["w"])


# Two sources of two classes, in no order that repeats.
TWO = {
    "x": X,
    "y": 3 * np.tanh(X @ np.array([[1.0, -2], [0.5, 0.3], [-1, 1]], "f")),
    "class_ids": np.array(
        [[0, 0], [0, 0], [0, 1], [1, 1], [1, 0], [0, 0], [1, 1], [0, 1]], np.int32
    ),
}
WITH_MEMORY = {
    "group_dro": weighting.group_dro([0, 1], step_size=0.5),
    "robust times group_dro": weighting.product(
        weighting.robust(0.5), weighting.group_dro([0, 1], step_size=0.5)
    ),
}


def five_steps(weigh, granularity, micro_batch, *, naive=False):
    """The gradient of the first of five steps of clipped Adam, and how far they moved the parameters. naive: the average of the
    steps that each part would take for itself."""

    def loss_fn(params, batch):
        losses = jnp.square(batch["x"] @ params["w"] + params["b"] - batch["y"])
        return losses if granularity == "source" else jnp.mean(losses, axis=-1)

    tx = make_optimizer(1e-2, clip_norm=0.1)
    seen = optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda g, s, p=None: (g, g)
    )
    step = jax.jit(
        make_train_step(
            loss_fn, weigh, optax.chain(seen, tx), micro_batch=0 if naive else micro_batch
        )
    )
    state, first = create_state(fresh_two(), optax.chain(seen, tx), weighting=weigh), None
    for _ in range(5):
        if naive:
            cut = [
                {name: array[i : i + micro_batch] for name, array in TWO.items()}
                for i in range(0, 8, micro_batch)
            ]
            parts = [step(state, part, 0)[0] for part in cut]
            mean = jax.tree.map(
                lambda *gradients: sum(gradients) / len(gradients),
                *(part.opt_state[0] for part in parts),
            )
            updates, opt_state = tx.update(mean, state.opt_state[1], state.params)
            params = optax.apply_updates(state.params, updates)
            state = dataclasses.replace(parts[-1], params=params, opt_state=(mean, opt_state))
        else:
            state, _ = step(state, TWO, 0)
        first = state.opt_state[0] if first is None else first
    return vector(first), vector(state.params) - vector(fresh_two()), state.weighting


def fresh_two():
    return {"w": jnp.full((3, 2), 0.1), "b": jnp.zeros((1, 2))}


def vector(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("granularity", ["example", "source"])
@pytest.mark.parametrize("name", [*WEIGHTINGS, *WITH_MEMORY])
def test_five_steps_in_parts_are_five_whole_steps(name, granularity):
    """Also of weightings with memory, which goes on by one a step; parts weighted for themselves would be seen."""
    weigh = (WEIGHTINGS | WITH_MEMORY)[name]
    gradient, moved, memory = five_steps(weigh, granularity, 0)
    found, way, after = five_steps(weigh, granularity, 3)
    assert np.linalg.norm(found - gradient) < 1e-5 * np.linalg.norm(gradient)
    assert np.linalg.norm(way - moved) < 1e-4 * np.linalg.norm(moved)
    for x, y in zip(jax.tree.leaves(after), jax.tree.leaves(memory), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5)
    found, way, _ = five_steps(weigh, granularity, 2, naive=True)
    if name != "uniform":
        assert np.linalg.norm(found - gradient) > 1e-3 * np.linalg.norm(gradient)
        assert np.linalg.norm(way - moved) > 3e-4 * np.linalg.norm(moved)


def test_parts_with_their_own_softmax_would_be_seen():
    whole, _ = one_gradient(weighting.robust(0.5), micro_batch=2)
    parts = [{name: array[i : i + 2] for name, array in BATCH.items()} for i in range(0, 8, 2)]
    naive = [
        jax.grad(
            lambda p, part=part: jnp.sum(
                weighting.robust(0.5)(squared_errors(p, part), None, 0) * squared_errors(p, part)
            )
        )(fresh())["w"]
        for part in parts
    ]
    assert np.linalg.norm(whole["w"] - np.mean(naive, axis=0)) > 0.05 * np.linalg.norm(whole["w"])


def test_trains_a_regression_with_a_pmf_of_three_lines():
    def hardest_half(losses, class_ids, epoch, *, batch=None):
        keep = losses >= jnp.median(losses)
        return keep / jnp.sum(keep)

    tx = make_optimizer(0.05, clip_norm=5.0)
    step = jax.jit(make_train_step(squared_errors, hardest_half, tx), donate_argnums=0)
    state = create_state(fresh(), tx)
    state, first = step(state, BATCH, 0)  # at the end, all losses may be the same
    for _ in range(399):
        state, _ = step(state, BATCH, 0)
    np.testing.assert_allclose(state.params["w"], TRUE, atol=0.02)
    assert int(state.step) == 400
    assert first["ess"] <= 5


def test_a_weighting_with_memory_is_carried_in_the_state():
    class Alternating:
        """All weight on the next example, each step one further."""

        def init(self):
            return jnp.zeros((), jnp.int32)

        def update(self, state, losses, class_ids, epoch, *, batch=None):
            return jnp.arange(losses.shape[0]) == state, state + 1

    tx = optax.sgd(0.0)
    step = jax.jit(make_train_step(squared_errors, Alternating(), tx))
    state = create_state(fresh(), tx, weighting=Alternating())
    for index in range(3):
        state, metrics = step(state, BATCH, 0)
        assert metrics["loss"] == pytest.approx(
            float(squared_errors(fresh(), BATCH)[index]), rel=1e-6
        )
    assert int(state.weighting) == 3


@pytest.mark.parametrize("micro_batch", [0, 3], ids=["whole", "in parts"])
@pytest.mark.parametrize(
    "weigh", [weighting.robust(0.1), weighting.cvar(0.5), weighting.group_dro(np.array([0, 1]))]
)
@pytest.mark.parametrize(
    "number", [np.nan, np.inf, 1e30], ids=["NaN", "infinity", "a gradient beyond float32"]
)
def test_a_step_without_numbers_changes_nothing_but_the_count(weigh, micro_batch, number):
    tx = make_optimizer(0.05, clip_norm=5.0)
    options = {"micro_batch": micro_batch, "ema_decay": 0.5}
    step = jax.jit(make_train_step(squared_errors, weigh, tx, **options))
    start, _ = step(create_state(fresh(), tx, weighting=weigh, ema=True), BATCH, 0)
    broken = dict(BATCH, x=np.array(X))
    broken["x"][5, 1] = number
    after, metrics = step(start, broken, 0)
    assert metrics["skipped"] == 1.0
    assert not (np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"]))
    assert int(after.step) == 2
    for (path, kept), before in zip(
        jax.tree.leaves_with_path(dataclasses.replace(after, step=start.step)),
        jax.tree.leaves(start),
        strict=True,
    ):
        np.testing.assert_array_equal(kept, before, err_msg=jax.tree_util.keystr(path))
    onward, metrics = step(after, BATCH, 0)
    assert metrics["skipped"] == 0.0
    assert np.any(onward.params["w"] != start.params["w"])


def test_weights_without_mass_are_counted():
    _, metrics = one_gradient(
        lambda losses, class_ids, epoch, *, batch=None: jnp.zeros_like(losses)
    )
    assert metrics["no_mass"] == 1.0
    assert metrics["ess"] == pytest.approx(8.0)
    with pytest.raises(ValueError, match=r"shape \(\)"):
        one_gradient(lambda losses, class_ids, epoch, *, batch=None: jnp.sum(losses))


def test_clipping_acts_before_adam_and_the_norm_is_reported_before_it():
    tx = optax.chain(make_optimizer(1.0, clip_norm=1e-3))
    grads = {"w": jnp.full((3, 1), 100.0)}
    _, opt_state = tx.update(grads, tx.init(grads), grads)
    # Adam's first moment after one step is 0.1 × the gradient it saw.
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
    step = jax.jit(
        make_train_step(squared_errors, weighting.uniform(), tx, ema_decay=0.5), donate_argnums=0
    )
    state = create_state(fresh(), tx, ema=True)
    average = np.zeros((3, 1))
    for _ in range(3):
        state, _ = step(state, BATCH, 0)
        average = 0.5 * average + 0.5 * np.asarray(state.params["w"])
    np.testing.assert_allclose(state.eval_params["w"], average, rtol=1e-5)


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
    rng = np.random.default_rng(1)
    sources = rng.standard_normal((3, 2, 500)).astype(np.float32)
    batch = {"mixture": sources.sum(1), "sources": sources, "active": np.ones((3, 2), bool)}

    def apply_fn(variables, mixture):
        return mixture[:, None, :] * jnp.array([1.0, -0.5])[None, :, None] + 0.1 * sources

    per_source, metrics = separation_loss_fn(apply_fn, granularity="source")({}, batch)
    per_example, _ = separation_loss_fn(apply_fn, granularity="example")({}, batch)
    assert per_source.shape == (3, 2)
    np.testing.assert_allclose(per_example, np.mean(per_source, axis=1), rtol=1e-5)
    np.testing.assert_allclose(metrics["si_sdri"], -per_example, rtol=1e-5)
    with pytest.raises(ValueError, match="granularity is 'mixture'"):
        separation_loss_fn(apply_fn, granularity="mixture")

"""Five steps of several weightings on all devices that there are, saved as OUT/steps.npz by the first process, and the mixtures
of an epoch that each process renders, OUT/PROCESS.npy. Run by test_devices.py:

    python tests/on_devices.py OUT [HOST:PORT PROCESSES PROCESS]
"""

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from jaxsep import models, runtime, weighting
from jaxsep.data import synthetic as demo
from jaxsep.objective.pmf import apply, pmf
from jaxsep.training import gradients as accumulate
from jaxsep.training.devices import Devices
from jaxsep.training.input_pipeline import open_pipeline
from jaxsep.training.step import separation_loss_fn

BATCH, STEPS = 16, 5
IDS = np.arange(BATCH * 2, dtype=np.int32).reshape(BATCH, 2) % 3


def loud(losses, class_ids, epoch, *, batch=None):
    """A pmf that looks at the signals."""
    return jnp.mean(jnp.square(batch["mixture"]), axis=-1)


def cases():
    """Name -> (weighting, whether it is a network, granularity, examples per pass of the whole batch)."""
    return {
        "network": (weighting.robust(0.3), True, "source", 0),
        "class_bias": (weighting.class_bias(np.array([0.0, 1.0, 3.0])), False, "source", 0),
        "robust in parts": (weighting.robust(0.3), False, "example", 8),
        "cvar in parts": (weighting.cvar(0.3), False, "source", 8),
        "group_dro": (weighting.group_dro([0, 1, 1], step_size=0.1), False, "source", 0),
        "loud": (loud, False, "example", 0),
        "loud in parts": (loud, False, "example", 8),
    }


def regression(granularity):
    def loss_fn(params, batch):
        losses = jnp.square(
            jnp.einsum("bt,tn->bn", batch["mixture"], params["w"]) - batch["sources"][:, :, 0]
        )
        losses = losses if granularity == "source" else jnp.mean(losses, axis=-1)
        return losses, {"losses": losses}

    return loss_fn, {"w": np.zeros((800, 2), np.float32)}


def network(granularity):
    module = models.create(
        "original",
        out_channels=8,
        in_channels=16,
        num_blocks=1,
        upsampling_depth=2,
        enc_kernel_size=21,
        enc_num_basis=16,
        num_sources=2,
    )
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 256), np.float32))[
        "params"
    ]
    rng = np.random.default_rng(0)
    inner = separation_loss_fn(module.apply, granularity=granularity)

    def loss_fn(params, batch):
        losses, _ = inner(params, batch)
        return losses, {"losses": losses}

    return loss_fn, jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes
    )


def steps(devices, weigh, is_network, granularity, part):
    """Losses, weights and gradients of every step of a descent."""
    loss_fn, params = (network if is_network else regression)(granularity)

    def step(state, batch, epoch):
        params, memory = state

        def weights(losses, batch):
            mass, after = apply(weigh, memory, losses, batch["class_ids"], epoch, batch=batch)
            found, no_mass = pmf(mass)
            return found, after, no_mass

        def logits(losses, batch):
            return weigh.logits(losses, batch["class_ids"], epoch, batch=batch)

        gradients = partial(accumulate.whole_gradients, loss_fn, weights)
        if part and getattr(weigh, "per_loss", False):
            gradients = partial(
                accumulate.streamed_gradients, loss_fn, logits, micro_batch=part // devices.count
            )
        elif part:
            gradients = partial(
                accumulate.accumulated_gradients,
                loss_fn,
                weights,
                micro_batch=part // devices.count,
            )
        found = gradients(params, batch, has_aux=True, axis=devices.axis)
        params = jax.tree.map(lambda p, g: p - 1e-5 * g, params, found.grads)
        return (params, found.memory), {
            **found.aux,
            "weights": found.weights,
            "grads": found.grads,
            "loss": found.loss,
        }

    jitted = devices.train_step(step)
    state = devices.copy((params, weigh.init() if hasattr(weigh, "init") else ()))
    rng = np.random.default_rng(1)
    results = {}
    for number in range(STEPS):
        sources = rng.standard_normal((BATCH, 2, 800)).astype(np.float32) * rng.uniform(
            0.3, 1, (BATCH, 2, 1)
        ).astype("f")
        whole = {
            "mixture": sources.sum(1),
            "sources": sources,
            "class_ids": IDS,
            "active": np.ones((BATCH, 2), bool),
        }
        rows = devices.rows(BATCH)
        state, found = jitted(
            state, devices.divide({name: x[rows] for name, x in whole.items()}), np.int32(0)
        )
        for path, leaf in jax.tree.leaves_with_path(found):
            results[f"{number} {jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    return results


def recipes(devices, folder):
    """The indices of the mixtures that this process renders in an epoch of eight batches."""
    demo.make_demo(folder, sample_rate=8000)
    sets = open_pipeline(
        SimpleNamespace(
            speech_root=str(folder / "speech"),
            environment_root=str(folder / "environment"),
            premixed_root="",
            premixed_roles=(),
            synthetic=True,
            cache_dir=folder,
            sample_rate=8000,
            segment_seconds=0.1,
            slots=("speech", "environment"),
            active_counts=(),
            max_snr_db=5.0,
            short_clips="pad",
            mixtures_val=4,
            mixtures_test=4,
            eval_seed=0,
        ),
        pad_seconds=0.25,
    )
    batches = sets.train_batches(devices, seed=0, batch_size=BATCH, mixtures_per_epoch=8 * BATCH)
    seen = []
    for _, (_, _, batch) in zip(range(8), batches, strict=False):
        seen += [np.asarray(shard.data) for shard in batch["index"].addressable_shards]
    batches.close()
    return np.concatenate(seen)


if __name__ == "__main__":
    runtime.configure()
    out = Path(sys.argv[1])
    if sys.argv[2:]:
        runtime.join(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    devices = Devices()
    np.save(
        out / f"{jax.process_index()}.npy", devices.in_turn(lambda: recipes(devices, out / "demo"))
    )
    found = {
        f"{name} {key}": x
        for name, case in cases().items()
        for key, x in steps(devices, *case).items()
    }
    if devices.first:
        np.savez(out / "steps.npz", **found)

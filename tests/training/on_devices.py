"""Steps of several weightings on all devices that there are, for test_devices.py to compare:

    python tests/training/on_devices.py OUT [HOST:PORT PROCESSES PROCESS]

The main process saves OUT/steps.npz; each saves the mixtures of an epoch that it renders as
OUT/PROCESS.npy.
"""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxsep import models, runtime, weighting
from jaxsep.config.schema import Data
from jaxsep.data import synthetic
from jaxsep.training.devices import Devices
from jaxsep.training.gradients import weighted_gradients
from jaxsep.training.input_pipeline import open_pipeline
from jaxsep.training.step import separation_loss_fn

BATCH, SAMPLES, STEPS = 16, 400, 3
IDS = np.arange(BATCH * 2, dtype=np.int32).reshape(BATCH, 2) % 3


def loud(losses, class_ids, epoch, *, batch=None):
    """A pmf that looks at the signals."""
    return jnp.mean(jnp.square(batch["mixture"]), axis=-1)


def cases():
    """Name -> (weighting, granularity, examples per pass of the whole batch, a network?)."""
    named = weighting.from_mass(loud, needs=("mixture",))
    dro = weighting.group_dro([0, 1, 1], step_size=0.1)
    return {
        "network": (weighting.robust(0.3), "source", 0, True),
        "robust, streamed": (weighting.robust(0.3), "example", 8, False),
        "cvar, accumulated": (weighting.cvar(0.3), "source", 8, False),
        "group_dro": (dro, "source", 0, False),
        "loud, accumulated": (named, "example", 8, False),
    }


def regression(granularity):
    def loss_fn(params, batch):
        estimates = jnp.einsum("bt,tn->bn", batch["mixture"], params["w"])
        losses = jnp.square(estimates - batch["sources"][:, :, 0])
        losses = losses if granularity == "source" else jnp.mean(losses, axis=-1)
        return losses, {"losses": losses}

    return loss_fn, {"w": np.zeros((SAMPLES, 2), np.float32)}


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
    mixture = np.zeros((1, 256), np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), mixture)["params"]
    rng = np.random.default_rng(0)
    loss_and_score = separation_loss_fn(module.apply, granularity=granularity)

    def loss_fn(params, batch):
        losses, _ = loss_and_score(params, batch)
        return losses, {"losses": losses}

    return loss_fn, jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype("f"), shapes)


def batches():
    rng = np.random.default_rng(1)
    for _ in range(STEPS):
        level = rng.uniform(0.3, 1, (BATCH, 2, 1)).astype("f")
        sources = level * rng.standard_normal((BATCH, 2, SAMPLES)).astype("f")
        active = np.ones((BATCH, 2), bool)
        yield {"mixture": sources.sum(1), "sources": sources, "class_ids": IDS, "active": active}


def steps(devices, weigh, granularity, micro_batch, is_network):
    """'STEP NAME' -> losses, weights and gradients of the steps of a descent."""
    loss_fn, params = (network if is_network else regression)(granularity)
    gradients = partial(weighted_gradients, micro_batch=micro_batch // devices.count)

    def step(state, batch, epoch):
        params, memory = state
        grads, weighed = gradients(
            loss_fn, weigh, params, batch, memory=memory, epoch=epoch, axis=devices.axis
        )
        vector = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(grads)])
        params = jax.tree.map(lambda p, g: p - 1e-5 * g, params, grads)
        results = {"loss": weighed.loss, "weights": weighed.weights, "grads": vector}
        return (params, weighed.memory), results | weighed.metrics

    jitted, state = devices.train_step(step), devices.replicate((params, weigh.init()))
    found = {}
    for number, batch in enumerate(batches()):
        rows = devices.rows(BATCH)
        own = devices.shard({name: x[rows] for name, x in batch.items()})
        state, results = jitted(state, own, np.int32(0))
        found |= {f"{number} {name}": np.asarray(x) for name, x in results.items()}
    return found


def recipes(devices, folder):
    """The indices of the mixtures that this process renders in an epoch of eight batches."""
    synthetic.make_demo(folder, sample_rate=8000)
    data = Data(
        speech_root=str(folder / "speech"),
        environment_root=str(folder / "environment"),
        synthetic=True,
        cache_dir=str(folder),
        segment_seconds=0.1,
        max_snr_db=5.0,
        mixtures_val=4,
        mixtures_test=4,
    )
    pipeline = open_pipeline(data, pad_seconds=0.25)
    batches = pipeline.train_batches(
        devices, seed=0, batch_size=BATCH, mixtures_per_epoch=8 * BATCH
    )
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
    rendered = devices.in_turn(lambda: recipes(devices, out / "demo"))
    np.save(out / f"{jax.process_index()}.npy", rendered)
    results = {
        f"{name}/{key}": array
        for name, case in cases().items()
        for key, array in steps(devices, *case).items()
    }
    if devices.is_main:
        np.savez(out / "steps.npz", **results)

"""The networks against the authors' numbers, at every length and depth, and `create`."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree
from torch_files import difference, stored

from jaxsep.models import FAMILIES, count_params, create
from jaxsep.models.sudormrf import Mask
from jaxsep.models.torch_import import from_state_dict

SMALL = {"out_channels": 4, "in_channels": 6, "num_blocks": 1, "enc_num_basis": 8}
LN_MASK_IN = 2 * 512  # the authors' unused layer, counted in the published sizes


class Gain(nn.Module):
    """A network of another's making: every source is the mixture times a gain."""

    num_sources: int = 2

    @nn.compact
    def __call__(self, mixture):
        gain = self.param("gain", nn.initializers.constant(0.5), (self.num_sources,))
        return gain[None, :, None] * mixture[:, None]


def shapes(module):
    return jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 50)))["params"]


def initialised(module):
    return jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 50)))["params"]


def drawn(module):
    """Parameters drawn from a normal distribution: nothing to compile."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32), shapes(module)
    )


def noise(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


@pytest.fixture(scope="module", params=["original", "improved"])
def reference(request, reference_dir):
    """Family, stored numbers, module and parameters of the authors' networks."""
    data, weights = stored(reference_dir, request.param)
    return request.param, data, *from_state_dict(weights, request.param)


def block_by_block(params):
    """The blocks' arrays, which are stacked, as one tree for each block."""
    count = len(params["blocks"]["expand"]["bias"])
    blocks = [jax.tree.map(lambda array, i=i: array[i], params["blocks"]) for i in range(count)]
    return {**params, "blocks": blocks}


@pytest.mark.parametrize(("output_tolerance", "gradient_tolerance"), [(1e-4, 1e-3)])
def test_authors_output_and_gradients(reference, output_tolerance, gradient_tolerance):
    """Gradients of Σ output · probe; stored in the layout of the parameters, imported like them."""
    family, data, module, params = reference
    fields = json.loads(str(data["config"])) | {"family": family}
    assert create(**fields) == module
    weights = {name.removeprefix("grad/"): data[name] for name in data if "grad/" in name}
    _, wanted = from_state_dict(weights, family)

    @jax.jit
    def run(params, mixture, probe):
        output, pull = jax.vjp(lambda params: module.apply({"params": params}, mixture), params)
        return output, pull(probe)[0]

    output, gradients = run(params, data["input"], data["probe"])
    assert difference(output, data["output"]) <= output_tolerance
    differences = jax.tree.map(difference, block_by_block(gradients), block_by_block(wanted))
    differences = jax.tree_util.tree_leaves_with_path(differences)
    assert len(differences) == len(weights)
    beyond = [(path, d) for path, d in differences if not d <= gradient_tolerance]
    assert beyond == []


# Published sizes (0.79, 1.42, 2.66 and 5.02 M) in full, as counted in the authors' code at
# upsampling_depth 5. The paper's own kernel of 41 samples adds 20 taps to 512 encoder and 2·512
# decoder bases of the network with 8 blocks: 1,414,790 + 30,720.
@pytest.mark.parametrize(
    ("family", "fields", "published"),
    [
        ("original", {"num_blocks": 4}, 791_174),
        ("original", {"num_blocks": 8}, 1_414_790),
        ("original", {"num_blocks": 16}, 2_662_022),
        ("original", {"num_blocks": 8, "enc_kernel_size": 41}, 1_445_510),
        ("improved", {"num_blocks": 16, "out_channels": 256}, 5_016_353),
    ],
)
def test_number_of_parameters(family, fields, published):
    module = create(family, **{"upsampling_depth": 5, "enc_kernel_size": 21, **fields})
    unused = LN_MASK_IN if family == "original" else 0
    assert count_params(shapes(module)) + unused == published


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("depth", "taps"), [(1, 41), (4, 20), (6, 20)])
def test_any_length_has_a_shape(family, depth, taps):
    module = create(family, **SMALL, upsampling_depth=depth, enc_kernel_size=taps)
    params = shapes(module)
    for samples in (1, 7, 1237):
        mixture = jax.ShapeDtypeStruct((2, samples), jnp.float32)
        estimates = jax.eval_shape(module.apply, {"params": params}, mixture)
        assert estimates.shape == (2, 2, samples)


# 161 samples at kernel 41 and depth 5 are where the authors' original network fails.
@pytest.mark.parametrize(
    ("family", "samples", "depth", "taps", "sources"),
    [
        ("original", 161, 5, 41, 2),
        ("original", 7, 1, 2, 1),
        ("improved", 1, 3, 21, 3),
    ],
)
def test_any_length_runs(family, samples, depth, taps, sources):
    module = create(
        family, **SMALL, upsampling_depth=depth, enc_kernel_size=taps, num_sources=sources
    )
    estimates = jax.jit(module.apply)({"params": drawn(module)}, noise(2, samples))
    assert estimates.shape == (2, sources, samples)
    assert np.isfinite(estimates).all()
    assert np.abs(estimates).max() > 0


# Counted by hand. Quanta of the original: lcm(10, 32), lcm(20, 32) and lcm(10, 8).
@pytest.mark.parametrize(
    ("family", "taps", "depth", "samples", "length"),
    [
        ("original", 21, 5, 1, 160),  # 16 frames
        ("original", 21, 5, 161, 320),
        ("original", 41, 5, 160, 320),  # 8 frames at 160, which cannot be halved four times
        ("original", 41, 5, 8000, 8000),
        ("original", 41, 5, 8001, 8320),
        ("improved", 41, 5, 8001, 8320),  # 20·32
        ("original", 20, 3, 40, 70),  # 5 frames at 40, 8 at 70
    ],
)
def test_padded_length(family, taps, depth, samples, length):
    module = create(family, enc_kernel_size=taps, upsampling_depth=depth)
    assert module.padded(samples) == length


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("samples", "length", "tolerance"), [(150, 160, 1e-6)])
def test_padding_is_silence_at_the_end(family, samples, length, tolerance):
    module = create(family, **SMALL, upsampling_depth=3)
    params, mixture = drawn(module), noise(1, samples)
    apply = jax.jit(module.apply)
    padded = jnp.pad(mixture, ((0, 0), (0, length - samples)))
    found, wanted = (apply({"params": params}, signal) for signal in (mixture, padded))
    assert difference(found, wanted[:, :, :samples]) <= tolerance
    moved = apply({"params": params}, jnp.pad(mixture, ((0, 0), (length - samples, 0))))
    assert difference(found, moved[:, :, length - samples :]) > 100 * tolerance


@pytest.mark.parametrize(
    ("channels", "sources", "tolerance"), [(3, 1, 1e-5), (3, 2, 1e-5), (12, 3, 1e-5), (8, 2, 1e-5)]
)
def test_masks(channels, sources, tolerance):
    """Against one layer after the other; softmax or one sigmoid; fewer, more and 8 channels."""
    module, x = Mask(8, sources), noise(2, 5, channels)
    encoded = noise(2, 5, 8)
    tree = jax.eval_shape(module.init, jax.random.key(1), x, encoded)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), tree)
    masked = jax.jit(module.apply)({"params": params}, x, encoded)
    bases = (
        x if channels == 8 else x @ params["input"]["kernel"] + params["input"]["bias"][None, None]
    )
    padded = np.pad(np.asarray(bases), ((0, 0), (0, 0), (4, 4)))
    logits = np.zeros((2, 5, sources, 8))
    for basis in range(8):
        window = padded[..., basis : basis + 9]
        logits[..., basis] = window @ np.asarray(params["kernel"]).T + np.asarray(params["bias"])
    powers = np.exp(logits)
    wanted = powers / (1 + powers) if sources == 1 else powers / powers.sum(2, keepdims=True)
    assert difference(masked, wanted * np.asarray(encoded)[:, :, None]) <= tolerance


@pytest.mark.parametrize("family", FAMILIES)
def test_initial_values(family):
    """PyTorch's, from the fan in; Glorot's at both ends of the improved network, as the authors."""
    module = create(
        family, out_channels=48, in_channels=64, num_blocks=1, upsampling_depth=2, enc_num_basis=64
    )
    params, taps = initialised(module), 21
    ends = {"original": 1 / taps**0.5, "improved": (6 / (taps + 64 * taps)) ** 0.5}
    decoder = {"original": 1 / taps**0.5, "improved": (6 / (2 * taps + 2 * 64 * taps)) ** 0.5}
    block = jax.tree.map(lambda array: array[0], params["blocks"])
    for found, bound in [
        (params["encoder"]["kernel"], ends[family]),
        (params["decoder"]["kernel"], decoder[family]),
        (params["bottleneck"]["kernel"], 64**-0.5),
        (params["bottleneck"]["bias"], 64**-0.5),
        (block["depthwise_1"]["kernel"], 5**-0.5),
        (block["depthwise_1"]["bias"], 5**-0.5),
        (block["expand"]["kernel"], 48**-0.5),
        (block["project"]["kernel"], 64**-0.5),
    ]:
        assert 0.85 * bound < np.abs(found).max() <= bound
        assert abs(np.mean(found)) < 0.3 * bound
    assert (block["expand_norm"]["slope"] == 0.25).all()
    assert block["expand_norm"]["slope"].shape == ((64,) if family == "original" else (1,))
    assert (params["encoder_norm"]["scale"] == 1).all()
    assert (params["encoder_norm"]["bias"] == 0).all()


@functools.cache
def estimates_and_gradients(family, **fields):
    """Of a network with two blocks: estimates, and gradients of a loss that sees no mean."""
    module = create(family, **SMALL | {"num_blocks": 2}, upsampling_depth=2, **fields)
    mixture, probe = noise(2, 240), noise(2, 2, 240)
    probe = probe - probe.mean(2, keepdims=True)

    @jax.jit
    def run(params, mixture, probe):
        estimates, pull = jax.vjp(lambda params: module.apply({"params": params}, mixture), params)
        return estimates, pull(probe)[0]

    return run(drawn(module), mixture, probe)


@pytest.mark.parametrize(("family", "tolerance"), [("original", 1e-4), ("improved", 1e-4)])
def test_frozen_parameters_do_not_matter_to_a_zero_mean_loss(family, tolerance):
    leaves = jax.tree_util.tree_leaves_with_path(estimates_and_gradients(family)[1])
    sizes = {tuple(key.key for key in path): float(jnp.abs(leaf).max()) for path, leaf in leaves}
    assert {path for path, size in sizes.items() if size < tolerance} == set(
        FAMILIES[family].FROZEN
    )


@pytest.mark.parametrize(("family", "tolerance"), [("improved", 1e-5)])
def test_remat_changes_no_number(family, tolerance):
    """But for the order of sums."""
    actual = block_by_block(estimates_and_gradients(family, remat=True)[1])
    wanted = block_by_block(estimates_and_gradients(family)[1])
    assert max(jax.tree.leaves(jax.tree.map(difference, actual, wanted))) <= tolerance


@pytest.mark.parametrize("family", ["original"])
def test_bfloat16_keeps_parameters_and_estimates_in_float32(family):
    """Rounding to 8 bits between layers: an error of some per cent, and not zero."""
    actual, gradients = estimates_and_gradients(family, dtype="bfloat16")
    wanted, wanted_gradients = estimates_and_gradients(family)
    assert {leaf.dtype for leaf in jax.tree.leaves((actual, gradients))} == {jnp.dtype("float32")}
    assert 1e-5 < difference(actual, wanted) < 0.05
    flat, wanted_flat = (ravel_pytree(tree)[0] for tree in (gradients, wanted_gradients))
    assert difference(flat, wanted_flat) < 0.1


def test_a_module_of_the_users():
    module = create(f"{__name__}:Gain", num_sources=3, enc_num_basis=8)
    assert type(module).__name__ == "Gain"
    mixture = noise(2, 11)
    params = module.init(jax.random.key(0), mixture)["params"]
    np.testing.assert_allclose(
        module.apply({"params": params}, mixture), np.repeat(mixture[:, None] / 2, 3, 1)
    )


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        (
            "convtasnet",
            {},
            r"model\.family is 'convtasnet'.*'original', 'improved' or 'package\.module:Class'",
        ),
        ("no.such.package:Net", {}, r"model\.family is 'no\.such\.package:Net'.*No module named"),
        ("math:Net", {}, r"model\.family is 'math:Net'.*no attribute"),
        ("math:sqrt", {}, r"model\.family is 'math:sqrt'.*no flax\.linen\.Module"),
        (":", {}, r"model\.family is ':'"),
        ("original", {"channels": 3}, r"model\.channels is not a field.*out_channels, in_channels"),
        ("original", {"num_blocks": 0}, r"model\.num_blocks is 0; .*at least 1"),
        ("improved", {"upsampling_depth": 0}, r"model\.upsampling_depth is 0; .*at least 1"),
        ("improved", {"num_sources": 1.5}, r"model\.num_sources is 1\.5; .*integer"),
        ("improved", {"num_sources": True}, r"model\.num_sources is True; .*integer"),
        ("improved", {"enc_kernel_size": 1}, r"model\.enc_kernel_size is 1; .*at least 2"),
        ("original", {"enc_num_basis": 33}, r"model\.enc_num_basis is 33; .*even"),
        ("original", {"dtype": "float16"}, r"model\.dtype is 'float16'; it must be 'float32' or"),
        ("original", {"remat": 2}, r"model\.remat is 2; it must be True or False"),
    ],
)
def test_create_names_what_is_wrong(family, fields, message):
    with pytest.raises(ValueError, match=message):
        create(family, **fields)


def test_defaults_are_the_authors():
    assert create("improved", enc_num_basis=33).enc_num_basis == 33
    module = create("original")
    assert (
        module.out_channels,
        module.in_channels,
        module.num_blocks,
        module.upsampling_depth,
    ) == (128, 512, 16, 4)
    assert (module.enc_kernel_size, module.enc_num_basis, module.num_sources) == (21, 512, 2)

"""The worker of asteroid's networks, run by path in an environment of its own.

torch and asteroid are imported where they are used: tools of jaxsep's environment read this file.
"""

import platform
import time
from collections.abc import Callable
from typing import Any


def build(case: dict[str, Any]) -> tuple[Callable[[], dict[str, float]], dict[str, Any]]:
    """What `protocol.serve` needs: a repetition of case['kind'] ('describe', 'train' or 'forward'),
    and facts about it."""
    if case["kind"] == "describe":
        return dict, describe()
    import numpy as np
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = network(case).to(device)
    # The same noise as in `worker`: sources [B,N,T], the mixture [B,T] their sum.
    samples = round(case["seconds"] * case["sample_rate"])
    shape = (case["batch"], case["network"]["num_sources"], samples)
    drawn = np.random.default_rng(0).standard_normal(shape, np.float32)
    mixture, sources = torch.from_numpy(drawn.sum(1)), torch.from_numpy(drawn)
    once = {"train": train_step, "forward": forward}[case["kind"]](
        model, mixture.to(device), sources.to(device)
    )

    def repeat() -> dict[str, float]:
        start = time.perf_counter()
        once()
        if device == "cuda":
            torch.cuda.synchronize()
        return {"seconds": time.perf_counter() - start}

    for _ in range(2):
        repeat()
    return repeat, {}


def describe() -> dict[str, Any]:
    """Versions, device and threads of this environment."""
    import asteroid
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions["asteroid"] = asteroid.__version__
    return {**versions, "device": device, "threads": torch.get_num_threads()}


def network(case: dict[str, Any]) -> Any:
    """The twin of jaxsep's network. asteroid has as many channels inside a block as bases."""
    from asteroid.models import SuDORMRFImprovedNet, SuDORMRFNet

    fields = case["network"]
    if fields["in_channels"] != fields["enc_num_basis"]:
        raise ValueError(
            f"in_channels is {fields['in_channels']}, "
            f"asteroid needs enc_num_basis, {fields['enc_num_basis']}"
        )
    family = {"original": SuDORMRFNet, "improved": SuDORMRFImprovedNet}[case["family"]]
    return family(
        fields["num_sources"],
        bn_chan=fields["out_channels"],
        num_blocks=fields["num_blocks"],
        upsampling_depth=fields["upsampling_depth"],
        kernel_size=fields["enc_kernel_size"],
        n_filters=fields["enc_num_basis"],
    )


def train_step(model: Any, mixture: Any, sources: Any) -> Callable[[], None]:
    """Ordinary training: permutation invariant SI-SDR, gradient norm clipped to 5, Adam."""
    import torch
    from asteroid.losses import PITLossWrapper, pairwise_neg_sisdr

    loss_fn = PITLossWrapper(pairwise_neg_sisdr, pit_from="pw_mtx")
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step() -> None:
        optimiser.zero_grad()
        loss_fn(model(mixture), sources).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()

    return step


def forward(model: Any, mixture: Any, sources: Any) -> Callable[[], None]:
    """Estimates alone, no gradients kept."""
    import torch

    model.eval()

    def estimate() -> None:
        with torch.no_grad():
            model(mixture)

    return estimate


if __name__ == "__main__":
    # Run by path, the folder of this file is where Python looks first.
    from protocol import serve

    serve(build)

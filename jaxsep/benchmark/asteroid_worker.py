"""The process that measures one case of asteroid, run by path in an environment of its own.

As `worker`: a case in JSON is its argument, its numbers are the last line that it prints. torch and
asteroid are imported in a function, since tools of jaxsep's environment read this file.
"""

import json
import sys
from typing import Any


def measure(
    kind: str, network: dict[str, Any] | None = None, batch: int = 0, seconds: float = 0.0
) -> dict[str, Any]:
    """Milliseconds of kind 'train' or 'forward'; versions and device for 'describe'."""
    import asteroid
    import numpy as np
    import torch
    from asteroid.losses import PITLossWrapper, pairwise_neg_sisdr
    from asteroid.models import SuDORMRFImprovedNet, SuDORMRFNet
    from timing import seconds_each  # the folder of this file is where Python looks first

    cuda = torch.cuda.is_available()
    if network is None:
        versions = {"torch": torch.__version__, "asteroid": asteroid.__version__}
        device = torch.cuda.get_device_name(0) if cuda else "cpu"
        return {**versions, "device": device, "threads": torch.get_num_threads()}

    torch.manual_seed(0)
    family = {"original": SuDORMRFNet, "improved": SuDORMRFImprovedNet}[network["family"]]
    model = family(
        network["num_sources"],
        bn_chan=network["out_channels"],
        num_blocks=network["num_blocks"],
        upsampling_depth=network["upsampling_depth"],
        kernel_size=network["enc_kernel_size"],
        n_filters=network["enc_num_basis"],  # and as many channels inside a block
    )
    # The same noise as in `worker`: sources [B,N,T], the mixture [B,T] their sum.
    shape = (batch, network["num_sources"], round(seconds * 8000))
    drawn = np.random.default_rng(0).standard_normal(shape, np.float32)
    mixture, sources = torch.from_numpy(drawn.sum(1)), torch.from_numpy(drawn)
    if cuda:
        model, mixture, sources = model.cuda(), mixture.cuda(), sources.cuda()
    # Ordinary training: permutation invariant SI-SDR, gradient norm clipped to 5, Adam.
    loss_fn = PITLossWrapper(pairwise_neg_sisdr, pit_from="pw_mtx")
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)

    def train() -> None:
        optimiser.zero_grad()
        loss_fn(model(mixture), sources).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()

    def forward() -> None:
        with torch.no_grad():
            model.eval()(mixture)

    def once() -> None:
        train() if kind == "train" else forward()
        if cuda:
            torch.cuda.synchronize()

    return {"ms": 1e3 * seconds_each(once)}


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))

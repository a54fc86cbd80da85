"""Curriculum: two speakers in every mixture, easy mixtures first.

    python -m jaxsep.main --config configs/curriculum.py

Logits are −L / (10 + 0.5·κ), with κ from 0 to 99 whatever the number of epochs. Ordinary training
to compare with: --config.weighting.name=uniform.

Cost: about 2 minutes on 2 CPU cores; at the scales `:cpu`, `:open` and `:paper` see
configs/README.md. Expected with recordings at `:cpu`: 3.3 dB, the final score of ordinary
training, after 18 epochs instead of 19.
"""

from ml_collections import ConfigDict

from configs import default


def get_config(scale: str = "demo") -> ConfigDict:
    """The paper's curriculum experiment at a scale."""
    config = default.get_config(scale)
    config.data.slots = ("speech", "speech")
    if scale in ("demo", "cpu"):
        # Two voices 30 dB apart teach a small network little in minutes.
        config.data.max_snr_db = 5.0
    config.weighting.name = "curriculum"
    config.weighting.beta = (10.0, 0.5)
    return config

"""The four scales. The other configs import this one and override.

Not run by itself: `python -m jaxsep.main --config configs/class_bias.py`, `robust.py`, …, each
with a scale:

    :demo    synthetic sound, a toy network, about 2 minutes on 2 CPU cores; nothing to download
    :cpu     your recordings, a small network, 1 s mixtures, about 4 minutes on 2 CPU cores
    :paper   your recordings, the paper's network and numbers: 100 epochs of 20,000 mixtures of
             4 s; for a GPU
    :open    the same on open data, LibriSpeech and ESC-50 as launch/open_data.sh lays them out

Every field with its default, unit, bounds and meaning stands in jaxsep/config/schema.py, and
`python -m jaxsep.main --config FILE:SCALE --help-fields` prints them.
"""

from ml_collections import ConfigDict

from jaxsep.config.schema import Config

SCALES = ("demo", "cpu", "open", "paper")


def get_config(scale: str = "paper") -> ConfigDict:
    """The fields at a scale; the paper's values are the defaults.

    Raises:
      ValueError: another scale.
    """
    if scale not in SCALES:
        raise ValueError(f"the scale {scale!r} is not known, it must be one of {', '.join(SCALES)}")
    config = ConfigDict(Config(scale=scale).model_dump())
    if scale in ("cpu", "demo"):
        config.data.update(segment_seconds=1.0, mixtures_val=320, mixtures_test=960)
        config.train.update(batch_size=16, mixtures_per_epoch=1200, num_epochs=20, log_every=20)
        config.model.update(
            out_channels=64, in_channels=128, num_blocks=4, upsampling_depth=4, enc_num_basis=128
        )
        config.evaluation.update(batch_size=16, last_epochs=3)
    if scale == "demo":
        config.data.update(synthetic=True, max_snr_db=5.0, mixtures_val=96, mixtures_test=192)
        config.train.update(mixtures_per_epoch=960, num_epochs=16, log_every=10)
        config.model.update(num_blocks=2)
        config.evaluation.update(last_epochs=2)
    return config

"""Every field of a jaxsep configuration, once: unit and meaning. The other configs import this one and override.

Not run by itself: `python -m jaxsep.main --config configs/class_bias.py`, `robust.py`, `curriculum.py`, …, each with a scale:

    :demo    synthetic sound, a toy network, about 2 minutes on 2 CPU cores; nothing to download
    :cpu     your recordings, a small network, 1 s mixtures, about 4 minutes on 2 CPU cores
    :paper   your recordings, the paper's network and numbers: 100 epochs of 20,000 mixtures of 4 s; for a GPU
    :open    the same on open data, LibriSpeech and ESC-50 as launch/open_data.sh lays them out

A field on the command line: `--config.train.num_epochs=20`, `--config.weighting.gamma.dog=2`.
"""

from ml_collections import ConfigDict

SCALES = ("demo", "cpu", "open", "paper")


def get_config(scale: str = "paper") -> ConfigDict:
    """The fields at a scale; the paper's values are the defaults.

    Raises:
      ValueError: another scale.
    """
    if scale not in SCALES:
        raise ValueError(f"the scale {scale!r} is not known, it must be one of {', '.join(SCALES)}")
    config = ConfigDict()
    config.scale = scale  # which scale the values came from; a label
    config.seed = 0  # of the initial parameters and the training recipes

    data = config.data = ConfigDict()
    data.speech_root = ""  # folder: WSJ0-2mix, or {train,val,test}/SPEAKER/*.wav|flac|ogg
    data.environment_root = ""  # folder: ESC-50, or {train,val,test}/CLASS/*.wav|flac|ogg
    data.premixed_root = (
        ""  # folder of ready mixtures (WSJ0-2mix, WHAM!, Libri2Mix), used instead of drawing them
    )
    data.premixed_roles = ()  # its folders to use: the mixture's, then one per source; (): mix or mix_clean, s1, s2, …
    data.synthetic = False  # True: a corpus whose root is empty is replaced by generated sound
    data.cache_dir = ""  # folder of the packed corpora; "": $JAXSEP_CACHE, or else ~/.cache/jaxsep
    data.sample_rate = 8000  # Hz; recordings at another rate are resampled
    data.segment_seconds = 4.0  # s, length of a drawn mixture
    data.slots = (
        "speech",
        "environment",
    )  # per source: a corpus, or a prior such as "speech:0.3,environment:0.7"
    data.active_counts = ()  # probabilities of 1, 2, … N sounding sources; (): always all
    data.max_snr_db = 30.0  # dB; the first source's power over each other's is uniform in ± this
    data.short_clips = (
        "pad"  # recordings shorter than a segment: "pad" at a random position, or "skip"
    )
    data.mixtures_val = 5000  # mixtures that every epoch is validated on
    data.mixtures_test = 3000  # mixtures of the test set
    data.eval_seed = 1  # of the validation and test recipes, which do not depend on seed

    train = config.train = ConfigDict()
    train.batch_size = 28  # mixtures per step; the weights are a pmf over these
    train.micro_batch = (
        0  # mixtures per pass inside a step, the result unchanged; 0: the whole batch
    )
    train.mixtures_per_epoch = 20000  # floor(mixtures_per_epoch / batch_size) steps an epoch
    train.num_epochs = 100
    train.learning_rate = 1e-3  # Adam
    train.schedule = "constant"  # "constant", "step" or "cosine"
    train.schedule_every = 20  # epochs between divisions ("step")
    train.schedule_divisor = 3.0  # what the rate is divided by ("step")
    train.warmup_epochs = 0  # epochs of linear warm-up ("cosine")
    train.clip_norm = 5.0  # largest global norm of the gradient; 0: no clipping
    train.ema_decay = (
        0.0  # of a moving average of the parameters, evaluated instead of them; 0: none
    )
    train.patience = 0  # epochs without a better best_metric before training stops; 0: never
    train.best_metric = "mean"  # validation SI-SDRi that picks the best checkpoint: mean, q01 … q99, a corpus or a class
    train.init_from = (
        ""  # start from the parameters of a run, a model bundle or a published .pt file
    )
    train.checkpoint_minutes = 10.0  # min, longest time between checkpoints
    train.log_every = 50  # steps per line of metrics.jsonl
    train.max_skipped = 10  # steps in a row whose loss or gradient is no finite number (skipped) before the run stops
    train.workers = 1  # threads that render mixtures

    weighting = config.weighting = ConfigDict()
    weighting.name = "uniform"  # or "robust", "curriculum", "class_bias", "cvar", "threshold", …
    weighting.granularity = "example"  # "example": one weight per mixture; "source": one per source
    weighting.alpha = 0.1  # 1/dB ("robust"): logits α·L; the paper tries 1/15, 1/10, 1/5
    weighting.beta = (
        10.0,
        0.5,
    )  # ("curriculum"): logits −L/(b₀ + b₁·κ), κ = floor(100·epoch/num_epochs)
    weighting.gamma = (
        ConfigDict()
    )  # ("class_bias"): logits by class, group or corpus name, the most specific wins; others 0

    weighting.fraction = 0.25  # ("cvar"): only the worst of a batch count, this share of them
    weighting.threshold_db = (
        15.0  # dB ("threshold"): an SI-SDRi from which on nothing more is learned
    )
    weighting.dro_step = 0.01  # 1/dB ("group_dro"): how fast weight moves to the worst group
    weighting.dro_groups = "class"  # ("group_dro"): what a group is: "corpus", "group" or "class"
    weighting.factors = ()  # ("product"): names of weightings, such as ("robust", "class_bias"), with the fields above

    loss = config.loss = ConfigDict()
    loss.improvement = True  # subtract the mixture's own SI-SDR, so that weights see what was gained, not what was given
    loss.zero_mean = True  # remove each signal's mean before SI-SDR

    model = config.model = ConfigDict()
    model.family = "original"  # "original", "improved", or "package.module:Class", a Flax module from [B,T] to [B,N,T]
    model.out_channels = 128  # channels between blocks
    model.in_channels = 512  # channels inside a block
    model.num_blocks = 8
    model.upsampling_depth = (
        5  # depthwise convolutions per block: one unstrided, the others halve the rate
    )
    model.enc_kernel_size = 41  # samples; the encoder's stride is half of it
    model.enc_num_basis = 512
    model.num_sources = 2  # as many as data.slots
    model.dtype = "float32"  # or "bfloat16": of what lies between layers; parameters, norms and loss stay float32
    model.remat = False  # True: the gradient makes each block's inside again instead of keeping it, for less memory

    evaluation = config.evaluation = ConfigDict()
    evaluation.batch_size = 28  # mixtures per evaluation step; of no influence on the scores
    evaluation.last_epochs = (
        5  # the test set is scored after each of the last epochs, and the statistics averaged
    )
    evaluation.pad_seconds = (
        0.25  # s; premixed mixtures are zero-padded to a multiple of this, to compile few lengths
    )
    return {"demo": _demo, "cpu": _cpu, "open": lambda c: c, "paper": lambda c: c}[scale](config)


def _cpu(config: ConfigDict) -> ConfigDict:
    config.data.update(segment_seconds=1.0, mixtures_val=320, mixtures_test=960)
    config.train.update(batch_size=16, mixtures_per_epoch=1200, num_epochs=20, log_every=20)
    config.model.update(
        out_channels=64,
        in_channels=128,
        num_blocks=4,
        upsampling_depth=4,
        enc_kernel_size=41,
        enc_num_basis=128,
    )
    config.evaluation.update(batch_size=16, last_epochs=3)
    return config


def _demo(config: ConfigDict) -> ConfigDict:
    _cpu(config)
    config.data.update(synthetic=True, max_snr_db=5.0, mixtures_val=96, mixtures_test=192)
    config.train.update(mixtures_per_epoch=960, num_epochs=16, log_every=10)
    config.model.update(num_blocks=2)
    config.evaluation.update(last_epochs=2)
    return config

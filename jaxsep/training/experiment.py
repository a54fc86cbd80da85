"""How a run goes: build its components, claim its folder, fit, conclude. And what is done later
with a finished run: evaluate it on other data, replay its skipped steps."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import jaxsep
from jaxsep.config.schema import Config
from jaxsep.console import say
from jaxsep.errors import ConfigError, DataError, Interrupted, ModelError, RunError
from jaxsep.evaluation.tables import distribution_table, write_csv
from jaxsep.inference.bundle import load_bundle
from jaxsep.training import checkpoint, replay
from jaxsep.training.build import build, build_pipeline, params_to_start_from
from jaxsep.training.devices import Devices
from jaxsep.training.loop import Trainer, make_score
from jaxsep.training.results import conclude, describe, finished, report, write_summary
from jaxsep.training.signals import Stop
from jaxsep.training.workdir import claim, own_config


def train(config: Config, workdir: Path) -> dict[str, Any]:
    """Train a network, or go on with a run, and score and write the results; nothing if finished.

    Returns:
      What summary.json holds.

    Raises:
      ConfigError, DataError: before anything is compiled or written.
      RunError: the folder cannot be written or read, or too many steps in a row were skipped. What
        was saved before is intact.
      Interrupted: a signal arrived, and the run is saved.
      OtherProcessError: another process cannot go on.
    """
    devices = Devices()
    components = devices.in_turn(lambda: build(config, devices=devices.count))
    with ExitStack() as held:

        def begin() -> tuple[Any, dict[str, Any] | None]:
            """Parameters to start from, and the summary of a finished run, by the main process."""
            if not devices.is_main:
                return None, None
            saved = checkpoint.numbers(workdir / "checkpoints" / "last")
            params = None if saved else params_to_start_from(components)
            claim(workdir, components, held)
            return params, finished(workdir, config)

        params, summary = devices.in_turn(begin)
        summary = devices.broadcast(summary)
        if summary is None:
            chosen, kind = config.weighting, components.pipeline.kind
            classes = f"{len(components.pipeline.table.names)} classes"
            weighting = f"{chosen.name} weighting per {chosen.granularity}"
            held.enter_context(writing(workdir))
            trainer = held.enter_context(closing(Trainer(components, workdir, devices, params)))
            trainer.say(f"{workdir}: {weighting}; {classes}, {kind}")
            try:
                trainer.fit()
                summary = conclude(trainer)
            except Interrupted as signal:
                trainer.save()
                step = int(trainer.state.step)
                trainer.say(f"{signal}: saved at step {step}; the same command goes on from here")
                raise
    if devices.is_main:
        print(report(summary, workdir))
    return summary


@contextmanager
def writing(workdir: Path) -> Iterator[None]:
    """Turn errors into a RunError: all data are open by now, so what fails inside is writing."""
    try:
        yield
    except (OSError, DataError, ModelError) as error:
        reason = str(error)
        if isinstance(error, OSError):
            reason = f"{error.filename or workdir}: {error.strerror or error}"
        raise RunError(
            f"{reason}; what was saved before is intact, and the same command goes on from there"
        ) from error


def evaluate_run(overrides: Sequence[str], workdir: Path) -> dict[str, Any]:
    """Score a finished run's best parameters on the test split of any data.

    Writes workdir/evaluation/on-FINGERPRINT/test.csv and summary.json, one folder for each set of
    test mixtures.

    Args:
      overrides: see `jaxsep.training.workdir.own_config`.
      workdir: the run's.

    Raises:
      ConfigError, DataError: before anything is compiled or written.
      ModelError: the run holds no model.
      RunError: the results cannot be written.
      Interrupted: a signal arrived; nothing is written.
    """
    devices = Devices()
    config = own_config(workdir, overrides, "evaluate")
    module, params, description = load_bundle(workdir, trust=config.model.family)
    if config.data.sample_rate != description["sample_rate"]:
        raise ConfigError(
            f"data.sample_rate is {config.data.sample_rate}, "
            f"the model's is {description['sample_rate']}"
        )
    pipeline = build_pipeline(config, ("test",))
    with closing(Stop(devices)) as stop:
        score = make_score(config, pipeline, module, devices, stop)
        try:
            rows, summaries = score(devices.replicate(params), "test")
        except Interrupted as signal:
            say(f"{signal}: stopped, nothing written")
            raise
    if not devices.is_main:
        return {}
    # The folder's name is that of the test mixtures: of their recordings and recipes.
    recipes = [array.tobytes().hex() for array in pipeline.recipes["test"].values()]
    words = "\n".join([*pipeline.pools["test"].fingerprints, *recipes])
    fingerprint = hashlib.sha256(words.encode()).hexdigest()[:12]
    folder = workdir / "evaluation" / f"on-{fingerprint}"
    summary = {
        "jaxsep": jaxsep.__version__,
        "data": {"kind": pipeline.kind, **config.data.model_dump()},
        "test": describe(rows, summaries),
    }
    with writing(workdir):
        pipeline.save_recipes(folder / "recipes")
        write_csv(folder / "test.csv", rows, pipeline.table, pipeline.kind)
        write_summary(folder, summary)
    print(
        f"\nTest set of {pipeline.kind}\n{distribution_table(summaries)}\n"
        f"results: {folder}/summary.json, test.csv"
    )
    return summary


def replay_run(overrides: Sequence[str], workdir: Path) -> None:
    """Examine the mixtures of the kept skipped steps of a run, and print which are not finite.

    Args:
      overrides: see `jaxsep.training.workdir.own_config`; the recordings must be the run's.
      workdir: the run's.

    Raises:
      ConfigError, DataError: something does not fit, such as recordings that are not the run's.
      RunError: what was kept of a step is damaged.
    """
    config = own_config(workdir, overrides, "replay")
    if not (workdir / replay.FOLDER).is_dir():
        print(f"{workdir}: no step was skipped: there is nothing to replay")
        return
    components = build(config)
    components.pipeline.check_recipes(workdir / "recipes")
    replay.replay(components, workdir)

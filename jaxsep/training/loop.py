"""The training loop: steps, epochs, validation, checkpoints, and the end after a signal.

A step is dispatched without waiting for its results. The host looks at the metrics of the step
before while the device computes, so that a GPU always has work. How far it looks ahead is one step,
never what a device happens to have finished: all processes must take each decision after the same
step. Before a checkpoint is written, the last step is looked at: what it says of the steps and what
it holds of the state belong together, and a run goes on from it bit for bit.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsep import console
from jaxsep.config.schema import Config
from jaxsep.errors import JaxsepError, RunError
from jaxsep.evaluation.evaluate import Rows, evaluate, make_eval_step
from jaxsep.evaluation.statistics import metric, summarise_rows
from jaxsep.training import checkpoint, replay
from jaxsep.training.build import Components, build_step, fresh_state
from jaxsep.training.devices import Devices
from jaxsep.training.input_pipeline import InputPipeline
from jaxsep.training.metric_writer import MetricWriter
from jaxsep.training.signals import Stop
from jaxsep.training.state import TrainState


@dataclass
class Progress:
    """Where a run stands, as JSON data in every checkpoint.

    epoch, step: the next batch, `step` within the epoch. best, best_epoch: the best validation so
    far, the epoch counting from 0; -1: none. seconds: of the run. unlogged: metrics of the steps
    since the last record. tests: epoch -> summaries of the test set after it. skipped: steps with a
    non-finite loss or gradient.
    """

    epoch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int = -1
    seconds: float = 0.0
    unlogged: list[dict[str, float]] = field(default_factory=list)
    tests: dict[str, Any] = field(default_factory=dict)
    skipped: int = 0


def make_score(
    config: Config, pipeline: InputPipeline, module: Any, devices: Devices, stop: Stop
) -> Callable[[Any, str], tuple[Rows, dict[str, Any]]]:
    """score(params, split) -> rows and summaries of all of 'val' or 'test', in every process.

    Raises, when called:
      RunError: the scores of some mixture are not finite.
      Interrupted: a signal arrived.
    """
    size = devices.round_up(config.evaluation.batch_size)
    eval_step = devices.eval_step(make_eval_step(module.apply, zero_mean=config.loss.zero_mean))

    def score(params: Any, split: str) -> tuple[Rows, dict[str, Any]]:
        batches = console.progress(
            pipeline.eval_batches(devices, split, size),
            total=-(-pipeline.recipes[split]["index"].size // size),
            unit="batch",
            desc=split,
            leave=False,
            disable=not devices.is_main,
        )
        rows = evaluate(eval_step, params, batches, before_each=stop.check)
        bad = np.unique(rows["index"][~np.isfinite(rows["si_sdr"])])
        if bad.size:
            raise RunError(
                f"the SI-SDR of {bad.size} mixtures of {split} is not finite, such as that of "
                f"number {bad[0]} of recipes/{split}.npz; what was saved before is intact"
            )
        return rows, summarise_rows(rows, pipeline.table)

    return score


class Trainer:
    """State and progress of a run, restored from workdir/checkpoints if there is a checkpoint.

    Args:
      params: to start from if there is none; None: fresh ones.

    Of many processes the main one has the folder, and its params count.
    """

    state: TrainState

    def __init__(
        self, components: Components, workdir: Path, devices: Devices, params: Any = None
    ) -> None:
        self.components, self.workdir, self.devices = components, workdir, devices
        config, pipeline = components.config, components.pipeline
        self.stop = Stop(devices)
        self.state = fresh_state(components, params)
        restored = self.restore("last")
        self.state, self.progress = restored or (devices.replicate(self.state), Progress())
        done, epoch = int(self.state.step), self.progress.epoch
        if restored:
            self.say(f"going on from step {done}, epoch {epoch + 1}")
        self.writer: MetricWriter | None = None
        if devices.is_main:
            self.writer = MetricWriter(workdir, step=done, epoch=epoch, data=pipeline.kind)
        self.train_step = devices.train_step(build_step(components, devices))
        self.score = make_score(config, pipeline, components.module, devices, self.stop)
        # Metrics of the step that the device computes, and seconds that the host waited for data.
        self.in_flight: tuple[dict[str, jax.Array], float] | None = None
        self.skipped_in_a_row = 0
        self.saved_at = self.looked_at = time.monotonic()
        self.status = ""  # beside the progress bar

    def close(self) -> None:
        """Close the files of metrics, and give the signals back."""
        if self.writer is not None:
            self.writer.close()
        self.stop.close()

    def say(self, line: str) -> None:
        if self.devices.is_main:
            console.say(line)

    def record(self, kind: str, **values: Any) -> None:
        """Write a line of metrics.jsonl about the last step."""
        if self.writer is not None:
            self.writer.record(kind, step=self.count, epoch=self.progress.epoch, **values)

    @property
    def count(self) -> int:
        """The steps of the run so far."""
        return self.progress.epoch * self.components.steps_per_epoch + self.progress.step

    def restore(self, kind: str) -> tuple[TrainState, Progress] | None:
        """State and progress of the newest checkpoint 'last' or 'best', None if there is none.

        Raises:
          RunError: all are damaged.
          OtherProcessError: the same, in all processes but the main one.
        """

        def read() -> tuple[TrainState, dict[str, Any]] | None:
            series = self.workdir / "checkpoints" / kind
            return checkpoint.restore(series, self.state) if self.devices.is_main else None

        state, progress = self.devices.in_turn(read) or (self.state, None)
        progress = self.devices.broadcast(progress)
        return None if progress is None else (self.devices.replicate(state), Progress(**progress))

    def save(self, kind: str = "last") -> None:
        """Write a checkpoint 'last' or 'best'. All processes look at the last step before."""
        self.look()
        now = time.monotonic()
        self.progress.seconds += now - self.saved_at
        self.saved_at = now
        if self.devices.is_main:
            checkpoint.save(self.workdir / "checkpoints" / kind, self.state, vars(self.progress))

    def best(self) -> tuple[Any, int, float | None]:
        """The parameters to evaluate of the best epoch, its index and its validation score.

        Where no checkpoint of it is intact: those of the last epoch and None, with a warning.
        """
        problem = "there is no checkpoint of the best epoch"
        try:
            if restored := self.restore("best"):
                state, progress = restored
                return state.eval_params, progress.best_epoch, progress.best
        except JaxsepError as error:
            problem = str(error)
        self.say(f"warning: {problem}; the results are of the last epoch")
        return self.state.eval_params, self.progress.epoch - 1, None

    def fit(self) -> None:
        """Train and validate to the last epoch, or until patience ends.

        Raises:
          Interrupted: a signal arrived, between two steps or two batches of an evaluation.
          RunError: too many steps in a row were skipped, or something cannot be written.
        """
        progress, train = self.progress, self.components.config.train
        while progress.epoch < train.num_epochs:
            if 0 < train.patience < progress.epoch - progress.best_epoch:
                break  # the last `patience` epochs brought nothing better
            started = time.monotonic()
            self.train_epoch()
            self.save()  # scoring a large validation set takes a while
            line = self.validate_epoch()
            progress.epoch, progress.step = progress.epoch + 1, 0
            self.save()
            took = time.monotonic() - started
            left = took * (train.num_epochs - progress.epoch) / 60
            epoch = f"epoch {progress.epoch:3d}/{train.num_epochs}"
            self.say(f"{epoch}  {line}  {took:.0f} s, {left:.1f} min left")

    def train_epoch(self) -> None:
        """Take the rest of the current epoch's steps; save when a checkpoint is due."""
        config, total = self.components.config, self.components.steps_per_epoch
        train, progress = config.train, self.progress
        batches = self.components.pipeline.train_batches(
            self.devices,
            seed=config.seed,
            batch_size=train.batch_size,
            mixtures_per_epoch=train.mixtures_per_epoch,
            epoch=progress.epoch,
            step=progress.step,
            workers=train.workers,
        )
        bar = console.progress(
            unit="ex",
            desc=f"epoch {progress.epoch + 1}/{train.num_epochs}",
            total=total * train.batch_size,
            initial=progress.step * train.batch_size,
            leave=False,
            disable=not self.devices.is_main,
            postfix=self.status or "compiling",
        )
        self.looked_at = time.monotonic()
        try:
            while progress.step < total:
                self.take_step(batches)
                bar.set_postfix_str(self.status, refresh=False)
                bar.update(train.batch_size)
                if self.skipped_in_a_row >= train.max_skipped:
                    self.save()
                    raise RunError(replay.too_many(self.components, self.workdir))
                self.stop.check()
                if time.monotonic() - self.saved_at > 60 * train.checkpoint_minutes:
                    self.save()
        finally:
            bar.close()
            batches.close()  # type: ignore[attr-defined]

    def take_step(self, batches: Iterator[tuple[int, int, Any]]) -> None:
        """Dispatch the next step, and look at the one before; after the last, look at both."""
        asked = time.monotonic()
        _, _, batch = next(batches)
        waited = time.monotonic() - asked
        self.state, metrics = self.train_step(self.state, batch, np.int32(self.progress.epoch))
        self.look()
        self.in_flight = metrics, waited
        self.progress.step += 1
        if self.progress.step == self.components.steps_per_epoch:
            self.look()

    def look(self) -> None:
        """Look at the step in flight, if there is one: wait for it, count, keep, log."""
        if self.in_flight is None:
            return
        metrics, waited = self.in_flight
        self.in_flight = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        now = time.monotonic()
        values |= {"step_seconds": now - self.looked_at, "wait_seconds": waited}
        self.looked_at = now
        progress, train = self.progress, self.components.config.train
        if values["skipped"]:
            values = {"skipped": 1.0}  # the others are not finite
            self.skipped_in_a_row += 1
            progress.skipped += 1
            first = (progress.step - 1) * train.batch_size
            self.record("skipped", first_mixture=first, mixtures=train.batch_size)
            if self.devices.is_main:
                place = {"epoch": progress.epoch, "step": progress.step - 1}
                number = progress.skipped
                self.say(replay.keep(self.workdir, self.components, self.state, place, number))
        else:
            self.skipped_in_a_row = 0
        progress.unlogged.append(values)
        if progress.step == self.components.steps_per_epoch or self.count % train.log_every == 0:
            self.log()

    def log(self) -> None:
        """Record the means over the steps since the last record that were not skipped."""
        steps, self.progress.unlogged = self.progress.unlogged, []
        taken = [step for step in steps if not step["skipped"]]
        if not taken:
            return
        means = {name: float(np.mean([step[name] for step in taken])) for name in taken[0]}
        means["skipped"] = len(steps) - len(taken)
        # The optimiser does not count skipped steps.
        rate = float(self.components.schedule(self.count - 1 - self.progress.skipped))
        self.record("train", learning_rate=rate, **means)
        self.status = f"loss {means['loss']:.2f}, SI-SDRi {means['si_sdri']:.2f} dB"

    def validate_epoch(self) -> str:
        """Score the validation set, and the test set in the last epochs; keep the best.

        Returns:
          A line for the user.
        """
        config, progress, params = self.components.config, self.progress, self.state.eval_params
        epoch = progress.epoch
        val = self.score(params, "val")[1]
        value = metric(val, config.train.best_metric)
        self.record("val", **_headline(val), best_metric=value)
        if config.train.num_epochs - epoch <= config.evaluation.last_epochs:
            test = self.score(params, "test")[1]
            self.record("test", **_headline(test))
            progress.tests[str(epoch)] = test
        if progress.best is None or value > progress.best:
            progress.best, progress.best_epoch = value, epoch
            self.save("best")
        corpora = ", ".join(f"{name} {mean:.2f}" for name, mean in _means(val).items())
        best = f"best {config.train.best_metric} {progress.best:.2f}"
        return f"validation SI-SDRi (dB): {corpora}; {best}"


def _means(summaries: dict[str, Any]) -> dict[str, float]:
    """The mean over all sources and of each corpus."""
    corpora = [name for name in summaries if not name.startswith("class:")]
    return {name: summaries[name]["mean"] for name in corpora}


def _headline(summaries: dict[str, Any]) -> dict[str, float]:
    """Means, deviation and lower quantiles, for metrics.jsonl and the curves."""
    combined = summaries["combined"]
    quantiles = {f"q{int(q):02d}": combined["quantiles"][q] for q in ("1", "5", "10", "50")}
    return {**_means(summaries), "std": combined["std"], **quantiles}

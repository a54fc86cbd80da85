"""The training loop: steps, epochs, validation, checkpoints, and the end after a signal.

Steps are dispatched without waiting for their results. The host looks at a step's metrics after it
has dispatched the next one, so that a GPU computes while the host renders, logs and decides.

- A step whose loss or gradient is not finite keeps the old state by itself (`training/step.py`), so
  nothing has to wait for it. That it was skipped is noticed one step later.
- Its replay needs the state that it met. The next step may change that state, and takes over its
  memory. So the loop copies the state before each step, on the device, and drops the copy once the
  step was seen to be finite. On 2 CPU cores a copy takes 0.3 ms at demo scale and 4 ms at the
  paper's, below 0.3 % of a step.
- How far the host looks ahead is a fixed number of steps, never what a device happens to have
  finished: all processes must take each decision after the same step.
- Before a checkpoint is written, all dispatched steps are looked at: what it says of the steps and
  what it holds of the state belong together, and a run goes on from it bit for bit. So they are
  before a process ends, which the others may still need for a step.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsep import console
from jaxsep.config.schema import Config
from jaxsep.console import say
from jaxsep.errors import Interrupted, RunError
from jaxsep.evaluation.evaluate import Rows, evaluate, make_eval_step
from jaxsep.evaluation.statistics import metric, summarise_rows
from jaxsep.training import replay
from jaxsep.training.build import Components, build_step, fresh_state
from jaxsep.training.checkpoint import Checkpoints
from jaxsep.training.devices import Devices
from jaxsep.training.input_pipeline import InputPipeline
from jaxsep.training.metric_writer import MetricWriter, Window
from jaxsep.training.signals import Stop
from jaxsep.training.state import TrainState

IN_FLIGHT = 1  # steps that are dispatched before the one before them is looked at


@dataclass
class Progress:
    """Where a run stands, as JSON data in every checkpoint.

    epoch, step: the next batch, `step` within the epoch. best, best_epoch: the best validation so
    far, the epoch counting from 0; -1: none. seconds: of training. pending: metrics since the last
    record. tests: epoch -> summaries of the test set after it. skipped: steps with a non-finite
    loss or gradient.
    """

    epoch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int = -1
    seconds: float = 0.0
    pending: list[dict[str, float]] = field(default_factory=list)
    tests: dict[str, Any] = field(default_factory=dict)
    skipped: int = 0


class DispatchedStep(NamedTuple):
    """A step that the device may still be computing. before: a copy of the state that it met;
    waited: seconds that the host waited for its batch."""

    place: replay.Place
    before: TrainState
    metrics: dict[str, jax.Array]
    waited: float


Score = Callable[[Any, str], tuple[Rows, dict[str, Any]]]


def make_score(
    config: Config, pipeline: InputPipeline, module: Any, devices: Devices, stop: Stop
) -> Score:
    """score(params, split) -> rows and summaries of all of 'val' or 'test', in every process.

    Raises, when called:
      RunError: the scores of some mixture are not finite.
      Interrupted: a signal arrived.
    """
    size = devices.round_up(config.evaluation.batch_size)
    eval_step = devices.eval_step(make_eval_step(module.apply, zero_mean=config.loss.zero_mean))

    def batches(split: str) -> Iterator[dict[str, Any]]:
        for batch in console.progress(
            pipeline.eval_batches(devices, split, size),
            total=pipeline.num_batches(split, size),
            unit="batch",
            desc=split,
            leave=False,
            disable=not devices.first,
        ):
            stop.check()
            yield batch

    def score(params: Any, split: str) -> tuple[Rows, dict[str, Any]]:
        rows = evaluate(eval_step, params, batches(split))
        bad = np.unique(rows["index"][~np.isfinite(rows["si_sdr"])])
        if bad.size:
            raise RunError(
                f"the SI-SDR of {bad.size} mixtures of {split} is not finite, such as that of "
                f"number {bad[0]} of recipes/{split}.npz; what was saved before is intact"
            )
        return rows, summarise_rows(rows, pipeline.table.names, pipeline.table.corpora)

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
        self.stop = Stop(devices)
        tx, step = build_step(components, devices)
        fresh = fresh_state(components, tx, params)
        self.checkpoints = Checkpoints(workdir / "checkpoints") if devices.first else None
        self.state, progress = self.restore("last", fresh) or (devices.copy(fresh), {})
        self.progress = Progress(**progress)
        done, epoch = int(self.state.step), self.progress.epoch
        if progress:
            self.say(f"going on from step {done}, epoch {epoch + 1}")
        self.writer = (
            MetricWriter(workdir, step=done, epoch=epoch, data=components.pipeline.kind)
            if devices.first
            else None
        )
        self.train_step = devices.train_step(step)
        self.copy_state = jax.jit(lambda state: jax.tree.map(jnp.copy, state))
        self.score = make_score(
            components.config, components.pipeline, components.module, devices, self.stop
        )
        self.window = Window(self.progress.pending)
        self.dispatched: deque[DispatchedStep] = deque()
        self.skipped_in_a_row = 0
        self.saved_at = time.monotonic()
        self.status = "compiling"  # beside the progress bar

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.stop.close()

    def say(self, line: str) -> None:
        if self.devices.first:
            say(line)

    def record(self, kind: str, *, step: int, epoch: int, **values: Any) -> None:
        """Write a line of metrics.jsonl."""
        if self.writer is not None:
            self.writer.record(kind, step=step, epoch=epoch, **values)

    def restore(self, kind: str, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """State and progress of the newest checkpoint 'last' or 'best', None if there is none.

        Raises:
          RunError: all are damaged; in every process.
        """
        restored, problem = None, ""
        try:
            restored = self.checkpoints.restore(kind, like) if self.checkpoints else None
        except RunError as error:
            problem = str(error)
        problem, progress = self.devices.tell([problem, restored and restored[1]])
        if problem:
            raise RunError(problem)
        if progress is None:
            return None
        return self.devices.copy(restored[0] if restored else like), progress

    def save(self, kind: str = "last") -> None:
        """Write a checkpoint 'last' or 'best'."""
        if self.checkpoints is None:
            return
        self.settle()
        now = time.monotonic()
        self.progress.seconds += now - self.saved_at
        self.progress.pending = self.window.pending()
        self.saved_at = now
        self.checkpoints.save(kind, self.state, vars(self.progress))

    def best(self) -> tuple[Any, int, float | None]:
        """The parameters to evaluate of the best epoch, its index and its validation score.

        Where no checkpoint of it is intact: those of the last epoch and None, with a warning.
        """
        problem = "there is no checkpoint of the best epoch"
        try:
            if restored := self.restore("best", self.state):
                progress = Progress(**restored[1])
                return restored[0].eval_params, progress.best_epoch, progress.best
        except RunError as error:
            problem = str(error)
        self.say(f"warning: {problem}; the results are of the last epoch")
        return self.state.eval_params, self.progress.epoch - 1, None

    def fit(self) -> None:
        """Train and validate to the last epoch, or until patience ends.

        Raises:
          Interrupted: a signal arrived, and the run is saved.
          RunError: too many steps in a row were skipped, or something cannot be written.
        """
        progress, num_epochs = self.progress, self.components.config.train.num_epochs
        started, finished_before = time.monotonic(), progress.epoch
        try:
            while progress.epoch < num_epochs and not self.out_of_patience():
                epoch_started = time.monotonic()
                self.train_epoch()
                self.save()  # scoring a large validation set takes a while
                line = self.validate_epoch()
                progress.epoch, progress.step = progress.epoch + 1, 0
                self.save()
                now = time.monotonic()
                per_epoch = (now - started) / (progress.epoch - finished_before)
                left = per_epoch * (num_epochs - progress.epoch) / 60
                took = f"{now - epoch_started:.0f} s, {left:.1f} min left"
                self.say(f"epoch {progress.epoch:3d}/{num_epochs}  {line}  {took}")
        except Interrupted:
            self.settle()  # in all processes: none leaves a step that the others wait for
            self.save()
            raise

    def out_of_patience(self) -> bool:
        """Whether the last `train.patience` epochs brought nothing better."""
        patience = self.components.config.train.patience
        return patience > 0 and self.progress.epoch - 1 - self.progress.best_epoch >= patience

    def train_epoch(self) -> None:
        """Take the rest of the current epoch's steps; save when a checkpoint is due."""
        components, train, progress = self.components, self.components.config.train, self.progress
        total, size = components.steps_per_epoch, train.batch_size
        batches = components.pipeline.train_batches(
            self.devices,
            seed=components.config.seed,
            batch_size=size,
            mixtures_per_epoch=train.mixtures_per_epoch,
            epoch=progress.epoch,
            step=progress.step,
            workers=train.workers,
        )
        bar = console.progress(
            unit="ex",
            desc=f"epoch {progress.epoch + 1}/{train.num_epochs}",
            total=total * size,
            initial=progress.step * size,
            leave=False,
            disable=not self.devices.first,
        )
        try:
            while progress.step < total:
                bar.set_postfix_str(self.status, refresh=self.status == "compiling")
                self.dispatch(batches)
                self.status = self.status.removeprefix("compiling")
                self.settle(IN_FLIGHT if progress.step < total else 0)
                bar.update(size)
                if self.skipped_in_a_row >= train.max_skipped:
                    problem = replay.too_many(components, self.workdir, self.skipped_in_a_row)
                    self.settle()
                    self.save()
                    raise RunError(problem)
                self.stop.check()
                if time.monotonic() - self.saved_at > 60 * train.checkpoint_minutes:
                    self.save()
        finally:
            bar.close()
            batches.close()  # type: ignore[attr-defined]

    def dispatch(self, batches: Iterator[tuple[int, int, Any]]) -> None:
        """Hand the next batch and the state to the device; wait for nothing but the batch."""
        asked = time.monotonic()
        epoch, step, batch = next(batches)
        waited = time.monotonic() - asked
        before = self.copy_state(self.state)
        self.state, metrics = self.train_step(self.state, batch, np.int32(epoch))
        place = replay.Place(epoch, step)
        self.dispatched.append(DispatchedStep(place, before, metrics, waited))
        self.progress.step += 1

    def settle(self, in_flight: int = 0) -> None:
        """Look at the dispatched steps, but for the newest `in_flight`: wait, count, keep, log."""
        train = self.components.config.train
        while len(self.dispatched) > in_flight:
            place, before, metrics, waited = self.dispatched.popleft()
            skipped = bool(metrics["skipped"])  # waits for this step
            self.window.add(metrics, examples=train.batch_size, waited=waited)
            self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
            if skipped:
                self.note_skipped(place, before)
            last = place.step + 1 == self.components.steps_per_epoch
            if last or self.count(place) % train.log_every == 0:
                self.log(place)

    def count(self, place: replay.Place) -> int:
        """Steps of the run up to and with this one."""
        return place.epoch * self.components.steps_per_epoch + place.step + 1

    def note_skipped(self, place: replay.Place, before: TrainState) -> None:
        """Count and record a skipped step, and keep what replays it."""
        self.progress.skipped += 1
        size = self.components.config.train.batch_size
        self.record(
            "skipped",
            step=self.count(place),
            epoch=place.epoch,
            first_mixture=place.step * size,
            mixtures=size,
        )
        if self.devices.first:
            say(replay.keep(self.workdir, self.components, before, place, self.progress.skipped))

    def log(self, place: replay.Place) -> None:
        """Record the means over the steps since the last record."""
        values, self.window = self.window.means(), Window()
        if not values:
            return
        # The optimiser does not count skipped steps.
        rate = float(self.components.schedule(self.count(place) - 1 - self.progress.skipped))
        step, epoch = self.count(place), place.epoch
        self.record("train", step=step, epoch=epoch, learning_rate=rate, **values)
        self.status = f"loss {values['loss']:.2f}, SI-SDRi {values['si_sdri']:.2f} dB"

    def validate_epoch(self) -> str:
        """Score the validation set, and the test set in the last epochs; keep the best.

        Returns:
          A line for the user.
        """
        config, progress, params = self.components.config, self.progress, self.state.eval_params
        step, epoch = int(self.state.step), progress.epoch
        _, val = self.score(params, "val")
        value = metric(val, config.train.best_metric)
        self.record("val", step=step, epoch=epoch, **_headline(val), best_metric=value)
        if config.train.num_epochs - epoch <= config.evaluation.last_epochs:
            _, test = self.score(params, "test")
            self.record("test", step=step, epoch=epoch, **_headline(test))
            progress.tests = {**progress.tests, str(epoch): test}
        if progress.best is None or value > progress.best:
            progress.best, progress.best_epoch = value, epoch
            self.save("best")
        corpora = ", ".join(f"{name} {mean:.2f}" for name, mean in _means(val).items())
        best = f"best {config.train.best_metric} {progress.best:.2f}"
        return f"validation SI-SDRi (dB): {corpora}; {best}"

    def recent_tests(self) -> list[dict[str, Any]]:
        """Summaries of the test set after each of the last evaluation.last_epochs epochs.

        [] where training stopped before them.
        """
        end = self.progress.epoch
        epochs = range(max(0, end - self.components.config.evaluation.last_epochs), end)
        tests = [self.progress.tests.get(str(epoch)) for epoch in epochs]
        return [test for test in tests if test] if all(tests) else []


def _means(summaries: dict[str, Any]) -> dict[str, float]:
    """The mean over all sources and of each corpus."""
    return {
        name: summary["mean"]
        for name, summary in summaries.items()
        if not name.startswith("class:")
    }


def _headline(summaries: dict[str, Any]) -> dict[str, float]:
    """Means, deviation and lower quantiles, for metrics.jsonl and the curves."""
    combined = summaries["combined"]
    quantiles = {f"q{int(q):02d}": combined["quantiles"][q] for q in ("1", "5", "10", "50")}
    return {**_means(summaries), "std": combined["std"], **quantiles}

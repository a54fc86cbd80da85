"""A training run in its folder: epochs, validation, checkpoints, interruption."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxsep.errors import Interrupted, RunError
from jaxsep.evaluation.evaluate import Rows, evaluate, make_eval_step
from jaxsep.evaluation.statistics import metric, summarise_rows
from jaxsep.training import replay as skipped
from jaxsep.training.build import Parts, build_step, fresh_state
from jaxsep.training.checkpoint import Checkpoints
from jaxsep.training.devices import Devices
from jaxsep.training.input_pipeline import Sets
from jaxsep.training.metric_writer import Journal, Window
from jaxsep.training.signals import Stop
from jaxsep.training.state import TrainState


@dataclass
class Progress:
    """Where a run stands, as JSON data in every checkpoint.

    epoch, step: the next batch, step within the epoch. best, best_epoch: the best validation so far (index from 0, -1: none).
    seconds: of training. pending: metrics since the last record. tests: epoch -> summaries of the test set after it. skipped:
    steps whose loss or gradient was no number.
    """

    epoch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int = -1
    seconds: float = 0.0
    pending: list[dict[str, float]] = field(default_factory=list)
    tests: dict[str, Any] = field(default_factory=dict)
    skipped: int = 0


def score(
    sets: Sets,
    devices: Devices,
    eval_step: Callable[..., Any],
    params: Any,
    split: str,
    batch_size: int,
    stop: Stop,
) -> tuple[Rows, dict[str, Any]]:
    """Rows and summaries of all of 'val' or 'test', in every process; answers signals between batches.

    Raises:
      RunError: the network gives no numbers for some mixture.
    """
    shared = devices.round_up(batch_size)

    def watched() -> Iterator[dict[str, Any]]:
        batches, total = sets.eval_batches(devices, split, shared), sets.num_batches(split, shared)
        for batch in tqdm(
            batches, total=total, desc=split, unit="batch", disable=not devices.first, **_BAR
        ):
            stop.check()
            yield batch

    rows = evaluate(eval_step, params, watched())
    odd = np.unique(rows["index"][~np.isfinite(rows["si_sdr"])])
    if odd.size:
        raise RunError(
            f"the network gives no finite SI-SDR for {odd.size} mixtures of {split}, such as number {odd[0]} of "
            f"recipes/{split}.npz; what was saved before is as it was"
        )
    return rows, summarise_rows(rows, sets.table.names, sets.table.corpora)


# Where nobody watches a terminal, a bar is a line now and then.
_BAR: dict[str, Any] = {
    "leave": False,
    "dynamic_ncols": True,
    "mininterval": 0.1 if sys.stderr.isatty() else 20.0,
}


class Run:
    """State and progress of a run, restored from workdir/checkpoints where there is one.

    Args:
      params: to start from where there is no checkpoint; None: fresh ones.

    Of many processes the first has the folder, and its params count.
    """

    state: TrainState

    def __init__(self, parts: Parts, workdir: Path, devices: Devices, params: Any = None) -> None:
        config = parts.config
        self.parts, self.workdir, self.devices, self.stop = parts, workdir, devices, Stop(devices)
        tx, self.step = build_step(parts, devices)
        fresh = fresh_state(parts, tx, params)
        self.checkpoints = Checkpoints(workdir / "checkpoints") if devices.first else None
        self.state, progress = self.restore("last", fresh) or (devices.copy(fresh), {})
        self.progress = Progress(**progress)
        step, epoch = int(self.state.step), self.progress.epoch
        if progress:
            self.say(f"going on from step {step}, epoch {epoch + 1}")
        self.journal = (
            Journal(workdir, step=step, epoch=epoch, data=parts.sets.kind)
            if devices.first
            else None
        )
        self.window = Window(self.progress.pending)
        self.eval_step = devices.eval_step(
            make_eval_step(parts.module.apply, zero_mean=config.loss.zero_mean)
        )
        self.in_a_row = 0  # skipped steps since the last that was not
        self.saved_at = time.monotonic()

    def close(self) -> None:
        if self.journal is not None:
            self.journal.close()
        self.stop.close()

    def say(self, line: str) -> None:
        if self.devices.first:
            print(line, flush=True)

    def record(self, kind: str, **values: Any) -> None:
        """A line of metrics.jsonl."""
        if self.journal is not None:
            self.journal.record(kind, epoch=self.progress.epoch, **values)

    def restore(self, name: str, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """State and progress of the checkpoint `name`, or None where there is none; like: a state of the same shapes.

        Raises:
          RunError: in every process, where the first finds all damaged.
        """
        found, problem = None, ""
        try:
            found = self.checkpoints.restore(name, like) if self.checkpoints is not None else None
        except RunError as error:
            problem = str(error)
        problem, progress = self.devices.tell([problem, found and found[1]])
        if problem:
            raise RunError(problem)
        return (
            None if progress is None else (self.devices.copy(found[0] if found else like), progress)
        )

    def save(self, name: str = "last") -> None:
        """Checkpoint 'last' or 'best'."""
        if self.checkpoints is None:
            return
        now = time.monotonic()
        self.progress.seconds += now - self.saved_at
        self.progress.pending = self.window.pending()
        self.saved_at = now
        self.checkpoints.save(name, self.state, vars(self.progress))

    def best(self) -> tuple[Any, int, float | None]:
        """The parameters to evaluate of the best epoch, its index, and its value; where no sound checkpoint of it is left, of
        the last epoch, said in a line, and None."""
        try:
            restored, problem = (
                self.restore("best", self.state),
                "there is no checkpoint of the best epoch",
            )
        except RunError as error:
            restored, problem = None, str(error)
        if restored is None:
            self.say(f"warning: {problem}; the results are of the last epoch")
            return self.state.eval_params, self.progress.epoch - 1, None
        then = Progress(**restored[1])
        return restored[0].eval_params, then.best_epoch, then.best

    def score(self, params: Any, split: str) -> tuple[Rows, dict[str, Any]]:
        """Rows and summaries of all of 'val' or 'test'."""
        batch_size = self.parts.config.evaluation.batch_size
        return score(
            self.parts.sets, self.devices, self.eval_step, params, split, batch_size, self.stop
        )

    def fit(self) -> None:
        """Train and validate to the last epoch, or until patience ends.

        Raises:
          Interrupted: a signal arrived; everything up to it is saved.
        """
        config, progress = self.parts.config, self.progress
        train_step = self.devices.train_step(self.step)
        begun, done_before = time.monotonic(), progress.epoch
        try:
            while progress.epoch < config.train.num_epochs and not self.out_of_patience():
                epoch_begun = time.monotonic()
                self.train_epoch(train_step)
                self.save()  # scoring a large validation set takes a while
                line = self.validate_epoch()
                progress.epoch, progress.step = progress.epoch + 1, 0
                self.save()
                now = time.monotonic()
                left = (
                    (now - begun)
                    / (progress.epoch - done_before)
                    * (config.train.num_epochs - progress.epoch)
                )
                took = f"{now - epoch_begun:.0f} s, {left / 60:.1f} min left"
                self.say(f"epoch {progress.epoch:3d}/{config.train.num_epochs}  {line}  {took}")
        except Interrupted:
            self.save()
            raise

    def out_of_patience(self) -> bool:
        """Whether the last `patience` epochs brought nothing better."""
        patience = self.parts.config.train.patience
        return patience > 0 and self.progress.epoch - 1 - self.progress.best_epoch >= patience

    def train_epoch(self, train_step: Callable[..., Any]) -> None:
        """The rest of the current epoch; saves when due."""
        train, progress, total = self.parts.config.train, self.progress, self.parts.steps_per_epoch
        batches = self.parts.sets.train_batches(
            self.devices,
            seed=self.parts.config.seed,
            batch_size=train.batch_size,
            mixtures_per_epoch=train.mixtures_per_epoch,
            epoch=progress.epoch,
            step=progress.step,
            workers=train.workers,
        )
        name, size = f"epoch {progress.epoch + 1}/{train.num_epochs}", train.batch_size
        done, quiet = progress.step * size, not self.devices.first
        bar = tqdm(total=total * size, initial=done, desc=name, unit="ex", disable=quiet, **_BAR)
        if int(self.state.step) == progress.epoch == 0:
            bar.set_postfix_str("compiling")
        try:
            while progress.step < total:
                asked = time.monotonic()
                upcoming = next(batches)
                waited = time.monotonic() - asked
                _, _, batch = upcoming
                self.state, metrics = train_step(self.state, batch, np.int32(progress.epoch))
                lost = bool(
                    metrics["skipped"]
                )  # waits: the next step must not change the state that is kept for replay
                self.window.add(metrics, examples=size, waited=waited)
                progress.step += 1
                if lost:
                    self.note_skipped()
                self.in_a_row = self.in_a_row + 1 if lost else 0
                bar.update(size)
                self.log(bar)
                if self.in_a_row >= train.max_skipped:
                    self.save()
                    raise RunError(skipped.too_many(self.parts, self.workdir, self.in_a_row))
                self.stop.check()
                if time.monotonic() - self.saved_at > 60 * train.checkpoint_minutes:
                    self.save()
        finally:
            bar.close()
            batches.close()  # type: ignore[attr-defined]

    def note_skipped(self) -> None:
        """Count and log the step just taken, whose loss or gradient was no number, and keep what replays it."""
        progress, train = self.progress, self.parts.config.train
        progress.skipped += 1
        place = skipped.Place(progress.epoch, progress.step - 1)
        first = place.step * train.batch_size
        self.record(
            "skipped", step=int(self.state.step), first_mixture=first, mixtures=train.batch_size
        )
        if self.journal is not None:
            line = skipped.keep(self.workdir, self.parts, self.state, place, progress.skipped)
            tqdm.write(line, file=sys.stderr)

    def log(self, bar: Any) -> None:
        """Write and show the means of the last steps, every train.log_every steps and at the end of an epoch."""
        step = self.progress.epoch * self.parts.steps_per_epoch + self.progress.step
        if (
            step % self.parts.config.train.log_every
            and self.progress.step < self.parts.steps_per_epoch
        ):
            return
        values = self.window.means()
        self.window = Window()
        if not values:
            return
        rate = float(
            self.parts.schedule(step - 1 - self.progress.skipped)
        )  # a skipped step is none of the optimiser's
        self.record("train", step=step, learning_rate=rate, **values)
        bar.set_postfix_str(
            f"loss {values['loss']:.2f}, SI-SDRi {values['si_sdri']:.2f} dB", refresh=False
        )

    def validate_epoch(self) -> str:
        """Score the validation set, and the test set in the last epochs; keep the best. Returns a line about it."""
        config, progress, params = self.parts.config, self.progress, self.state.eval_params
        step = int(self.state.step)
        _, val = self.score(params, "val")
        value = metric(val, config.train.best_metric)
        self.record("val", step=step, **_headline(val), best_metric=value)
        if config.train.num_epochs - progress.epoch <= config.evaluation.last_epochs:
            _, test = self.score(params, "test")
            self.record("test", step=step, **_headline(test))
            progress.tests = {**progress.tests, str(progress.epoch): test}
        if progress.best is None or value > progress.best:
            progress.best, progress.best_epoch = value, progress.epoch
            self.save("best")
        corpora = ", ".join(
            f"{name} {val[name]['mean']:.2f}" for name in val if not name.startswith("class:")
        )
        return f"validation SI-SDRi (dB): {corpora}; best {config.train.best_metric} {progress.best:.2f}"

    def recent_tests(self) -> list[dict[str, Any]]:
        """Summaries of the test set after each of the last evaluation.last_epochs epochs; [] where training stopped early."""
        epochs = range(
            max(0, self.progress.epoch - self.parts.config.evaluation.last_epochs),
            self.progress.epoch,
        )
        tests = [self.progress.tests.get(str(epoch)) for epoch in epochs]
        return [test for test in tests if test] if all(tests) else []


def _headline(summaries: dict[str, Any]) -> dict[str, float]:
    """Means by corpus and the lower quantiles, for metrics.jsonl and the curves."""
    combined = summaries["combined"]
    means = {
        name: summary["mean"]
        for name, summary in summaries.items()
        if not name.startswith("class:")
    }
    return {
        **means,
        "std": combined["std"],
        **{f"q{int(q):02d}": combined["quantiles"][q] for q in ("1", "5", "10", "50")},
    }

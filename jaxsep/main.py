"""Train a separation network, or evaluate a trained one.

    python -m jaxsep.main --config configs/class_bias.py[:demo|:cpu|:paper] [--workdir DIR] [--config.field=value …]
    python -m jaxsep.main --mode evaluate --workdir DIR [--config.data.speech_root=… …]
    python -m jaxsep.main --mode replay --workdir DIR

A run with a network outside jaxsep is evaluated only with --config.model.family=package.module:Class, which allows to run it.

All devices share every batch. Of several machines each runs the command, with --coordinator HOST:PORT --processes N
--process I, or as a task of a SLURM step (launch/slurm.sbatch).

A run started again in its folder goes on where it was. Replay takes the steps again that were skipped, because their loss or
gradient was no number, and shows which mixtures do it. Exit status: 0 done, 1 the run cannot go on (disk full, checkpoints
damaged, too many steps skipped), 2 a mistake in the command, the configuration or the data, 130 and 143 interrupted by Ctrl-C
and SIGTERM, saved.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxsep import runtime
from jaxsep.config import load as settings
from jaxsep.config import schema as rules
from jaxsep.errors import (
    ConfigError,
    DataError,
    Interrupted,
    ModelError,
    OtherProcessError,
    RunError,
)
from jaxsep.training import experiment


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, dispatch, and turn what went wrong into one line and an exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxsep.main",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--mode", choices=("train", "evaluate", "replay"), default="train")
    parser.add_argument(
        "--config", metavar="FILE[:SCALE]", help="for --mode train; the others take the run's own"
    )
    parser.add_argument("--workdir", type=Path, help="the run's folder; default: runs/CONFIG-SCALE")
    parser.add_argument(
        "--coordinator", metavar="HOST:PORT", help="of several processes: where process 0 listens"
    )
    parser.add_argument(
        "--processes", type=int, metavar="N", help="of several processes: how many there are"
    )
    parser.add_argument(
        "--process", type=int, metavar="I", help="of several processes: which this is, from 0"
    )
    arguments, overrides = parser.parse_known_args(argv)
    try:
        runtime.join(arguments.coordinator, arguments.processes, arguments.process)
        if arguments.mode != "train":
            if arguments.workdir is None or arguments.config is not None:
                parser.error(
                    f"--mode {arguments.mode} takes --workdir, a run's folder, and no --config: it has its own"
                )
            work = (
                experiment.evaluate_run if arguments.mode == "evaluate" else experiment.replay_run
            )
            work(overrides, arguments.workdir)
        else:
            if arguments.config is None:
                parser.error("--config is missing, such as --config configs/class_bias.py")
            config = settings.load(arguments.config, overrides, rules.problems)
            if notice := settings.toy_notice(arguments.config, config):
                print(notice)
            name = Path(arguments.config.split(":")[0]).stem
            experiment.train(config, arguments.workdir or Path("runs") / f"{name}-{config.scale}")
    except (ConfigError, DataError, ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OtherProcessError as error:
        print(error, file=sys.stderr)
        return 2
    except Interrupted as interruption:
        return interruption.exit_status
    except KeyboardInterrupt:
        print("SIGINT: stopped at once", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    runtime.configure()
    sys.exit(main())

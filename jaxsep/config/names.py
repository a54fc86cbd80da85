"""Names of classes in a configuration: γ for each of the data's classes."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxsep.config.schema import closest
from jaxsep.errors import ConfigError, together


def gamma_problems(
    gamma: Mapping[str, float], names: Sequence[str], groups: Sequence[str], corpora: Sequence[str]
) -> list[str]:
    """One line for each name in gamma that is no class, group or corpus of the data.

    Names whose value is 0 are left out: they change nothing.
    """
    legal = sorted({*names, *groups, *corpora})
    return [
        f"weighting.gamma.{name}: no class, group or corpus of the data has this name"
        + (closest(name, legal) or f"; its corpora are {', '.join(sorted(set(corpora)))}")
        for name, value in gamma.items()
        if name not in legal and value
    ]


def gamma_vector(
    gamma: Mapping[str, float], names: Sequence[str], groups: Sequence[str], corpora: Sequence[str]
) -> np.ndarray:
    """γ of each class, float32 [classes]: by its own name, else its group, else its corpus, else 0.

    Args:
      gamma: name of a class, group or corpus -> value.
      names, groups, corpora: [classes] by class id, as of `jaxsep.data.packs.format.ClassTable`.

    Raises:
      ConfigError: all `gamma_problems`.
    """
    if problems := gamma_problems(gamma, names, groups, corpora):
        raise ConfigError(together(problems))
    values = [
        gamma.get(name, gamma.get(group, gamma.get(corpus, 0.0)))
        for name, group, corpus in zip(names, groups, corpora, strict=True)
    ]
    return np.array(values, np.float32)

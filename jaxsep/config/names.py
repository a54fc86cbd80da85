"""Names of classes in a configuration: γ for each of the data's classes."""

from collections.abc import Mapping

import numpy as np

from jaxsep.config.schema import closest
from jaxsep.data.packs.format import ClassTable


def gamma_problems(gamma: Mapping[str, float], table: ClassTable) -> list[str]:
    """One line for each name in gamma that is no class, group or corpus of the data.

    Names whose value is 0 are left out: they change nothing.
    """
    legal = {*table.names, *table.groups, *table.corpora}
    return [
        f"weighting.gamma.{name}: no class, group or corpus of the data has this name"
        + (closest(name, legal) or f"; its corpora are {', '.join(sorted({*table.corpora}))}")
        for name, value in gamma.items()
        if name not in legal and value
    ]


def gamma_vector(gamma: Mapping[str, float], table: ClassTable) -> np.ndarray:
    """γ by class id, float32: a class's own value, else its group's, else its corpus's, else 0."""
    classes = zip(table.names, table.groups, table.corpora, strict=True)
    values = [
        gamma.get(n, gamma.get(group, gamma.get(corpus, 0.0))) for n, group, corpus in classes
    ]
    return np.array(values, np.float32)

"""What the README shows works: its Python, its links and the names of its commands' files."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_of_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict = {}
    for block in blocks[:2]:  # the third loads a trained run; tests/test_training.py does that
        exec(block, names)
    assert len(blocks) == 3
    assert names["si_sdri"].shape == (4, 2)
    assert float(names["si_sdri"].min()) > 10
    assert names["weights"].sum() == pytest.approx(1.0)
    kept = names["worse_half"](np.array([1.0, 5.0, 3.0, 2.0]), None, 0)
    np.testing.assert_allclose(kept, [0, 0.5, 0.5, 0])


def test_files_that_the_readme_names_exist():
    named = set(re.findall(r"\b(?:configs|launch|tests|jaxsep)/[\w/]+\.(?:py|sh|txt)\b", README))
    assert {"configs/class_bias.py", "launch/run.sh", "launch/test.sh"} <= named
    missing = [name for name in named - {"configs/FILE.py"} if not (ROOT / name).exists()]
    assert not missing

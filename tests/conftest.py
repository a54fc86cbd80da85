"""Settings of every test: CPU backend, rank promotion raises, shared folders found or the test skipped with its reason."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Numbers computed with the authors' released code."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip(f"the authors' reference numbers are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def recordings_dir() -> Path:
    """Real recordings: ESC-50/, ESC-50-44k/ and speech/."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"the real recordings are not at {folder}")
    return folder

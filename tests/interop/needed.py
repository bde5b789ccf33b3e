"""What tests beside the real other side need."""

from __future__ import annotations

import importlib.util

import pytest

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="torch is missing; install it with: .venv/bin/python -m pip install torch==2.13.0",
)

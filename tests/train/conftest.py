"""Many of these tests run out of memory on purpose, after which the product collects garbage: what thousands of tests
before them have left is not looked through each time."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def _only_what_is_new_is_garbage() -> Iterator[None]:
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()

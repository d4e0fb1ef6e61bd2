"""Blocks of an arena lie behind each other, never in each other, and come back when their lease ends."""

from __future__ import annotations

import random
import sys

import pytest
import torch

from embsearch.kernels import arena
from embsearch.kernels.arena import ALIGNED, Arena

LIKE = torch.empty(0, dtype=torch.bfloat16)


def test_blocks_do_not_touch_and_are_given_out_again():
    made = Arena(1 << 20)
    one = made.lease()
    first, second = one(LIKE, 3, 5), one(LIKE, 7)
    assert (first.shape, first.dtype) == ((3, 5), torch.bfloat16)
    assert second.data_ptr() - first.data_ptr() == ALIGNED
    one.end()
    one.end()
    with pytest.raises(RuntimeError, match="is over"):
        one(LIKE, 1)
    assert made.top == 0
    assert made.lease()(LIKE, 1).data_ptr() == first.data_ptr()


def test_leases_that_end_in_any_order_keep_what_others_took():
    made, draw = Arena(1 << 16), random.Random(0)
    live: list[tuple[int, arena.Lease, list[torch.Tensor]]] = []
    for number in range(1, 400):
        if live and draw.random() < 0.55:
            value, lease, blocks = live.pop(draw.randrange(len(live)))
            assert all(bool((block == value).all()) for block in blocks)
            lease.end()
        else:
            lease = made.lease()
            blocks = [lease(torch.empty(0), draw.randrange(1, 900)).fill_(number) for _ in range(3)]
            live.append((number, lease, blocks))
    for value, _, blocks in live:
        assert all(bool((block == value).all()) for block in blocks)
    live.clear()
    del lease, blocks, _
    assert made.top == 0  # a lease that nobody holds is over


def test_what_does_not_fit_comes_from_the_heap():
    made = Arena(4096)
    lease = made.lease()
    kept, beyond = lease(LIKE, 2000).fill_(1), lease(LIKE, 2000).fill_(2)
    assert made.top <= 4096
    assert (kept == 1).all()
    assert (beyond == 2).all()


def test_without_addresses_everything_comes_from_the_heap(monkeypatch):
    def refused(*given, **more):
        raise OSError("no addresses")

    monkeypatch.setattr(arena.mmap, "mmap", refused)
    made = Arena()
    assert made.lease()(LIKE, 4, 4).shape == (4, 4)
    assert not made.mapped
    assert made.top == 0
    made.release_unused()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pages may keep what is in them")
def test_pages_go_back_only_when_nothing_lies_in_them():
    made = Arena(1 << 20)
    lease = made.lease()
    block = lease(LIKE, 1 << 18).fill_(3)
    made.release_unused()
    assert (block == 3).all()
    lease.end()
    made.release_unused()
    assert (block == 0).all()  # fetched anew

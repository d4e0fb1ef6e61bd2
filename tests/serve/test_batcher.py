"""What waits is encoded together, everybody gets their own rows, and one bad request harms nobody else."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from embsearch.serve.batcher import Batcher
from embsearch.serve.encoder import Vectors


class Recorded:
    """Encodes a text as its number, notes each batch, and waits until it is let go."""

    def __init__(self):
        self.batches, self.go, self.begun = [], threading.Event(), threading.Event()

    def __call__(self, texts):
        self.begun.set()
        self.go.wait(10)
        self.batches.append(list(texts))
        numbers = np.array([float(text) for text in texts], dtype=np.float32)
        return Vectors(numbers[:, None], np.ones(len(texts)))


@pytest.fixture
def encode():
    return Recorded()


def ask(batcher, encode, *requests):
    """The first request is being computed when the others come."""
    futures = [batcher.submit(requests[0])]
    assert encode.begun.wait(10)
    futures += [batcher.submit(request) for request in requests[1:]]
    encode.go.set()
    batcher.close()
    return futures


def test_what_waits_is_one_batch_and_everybody_gets_their_own_rows(encode):
    futures = ask(Batcher(encode, 10), encode, ["0"], ["1", "2"], ["3"], ["4"])
    assert encode.batches == [["0"], ["1", "2", "3", "4"]]
    assert [f.result().values[:, 0].tolist() for f in futures] == [[0], [1, 2], [3], [4]]


def test_a_batch_is_no_larger_than_it_may_be_and_keeps_the_order(encode):
    ask(Batcher(encode, 3), encode, ["0"], ["1", "2"], ["3", "4"], ["5"], ["6", "7", "8", "9"])
    assert encode.batches == [["0"], ["1", "2"], ["3", "4", "5"], ["6", "7", "8", "9"]]


def test_a_request_that_fails_does_not_take_others_with_it(encode):
    futures = ask(Batcher(encode, 10), encode, ["0"], ["1"], ["no number"], ["2"])
    with pytest.raises(ValueError, match="no number"):
        futures[2].result()
    assert [futures[n].result().values.item() for n in (1, 3)] == [1, 2]


def test_who_has_gone_away_is_not_computed(encode):
    batcher = Batcher(encode, 10)
    batcher.submit(["0"])
    assert encode.begun.wait(10)
    assert batcher.submit(["1"]).cancel()
    encode.go.set()
    batcher.close()
    assert encode.batches == [["0"]]
    with pytest.raises(RuntimeError, match="shutting down"):
        batcher.submit(["2"])

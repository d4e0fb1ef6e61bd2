"""What waits is encoded together, everybody gets their own rows, and one bad request harms nobody else."""

from __future__ import annotations

import threading
import time
from concurrent.futures import wait

import numpy as np
import pytest

from embsearch.serve.batcher import LEAST, WHOLE, Batcher
from embsearch.serve.encoder import Vectors
from embsearch.serve.requests import Refusal


class Recorded:
    """Encodes a text as its number, notes each batch, and waits until it is let go."""

    def __init__(self):
        self.pace = 0.0  # seconds a character
        self.batches, self.go, self.begun = [], threading.Event(), threading.Event()

    def __call__(self, texts):
        self.begun.set()
        self.go.wait(10)
        time.sleep(self.pace * sum(len(text) for text, _ in texts))
        self.batches.append([text for text, _ in texts])
        numbers = np.array([float(text) for text, _ in texts], dtype=np.float32)
        return Vectors(numbers[:, None], np.ones(len(texts)))


@pytest.fixture
def encode():
    return Recorded()


def ask(batcher, encode, *requests):
    """The first request is being computed when the others come."""
    futures = [batcher.submit(texts(*requests[0]))]
    assert encode.begun.wait(10)
    futures += [batcher.submit(texts(*request)) for request in requests[1:]]
    encode.go.set()
    wait(futures, 10)
    batcher.close()
    return futures


def texts(*given):
    return [(text, None) for text in given]


def test_what_waits_is_one_batch_and_everybody_gets_their_own_rows(encode):
    futures = ask(Batcher(encode, 10, 100), encode, ["0"], ["1", "2"], ["3"], ["4"])
    assert encode.batches == [["0"], ["1", "2", "3", "4"]]
    assert [f.result().values[:, 0].tolist() for f in futures] == [[0], [1, 2], [3], [4]]


def test_a_batch_is_no_larger_than_it_may_be_and_keeps_the_order(encode):
    ask(Batcher(encode, 3, 100), encode, ["0"], ["1", "2"], ["3", "4"], ["5"], ["6", "7", "8", "9"])
    assert encode.batches == [["0"], ["1", "2"], ["3", "4", "5"], ["6", "7", "8", "9"]]


def test_a_request_that_fails_does_not_take_others_with_it(encode):
    futures = ask(Batcher(encode, 10, 100), encode, ["0"], ["1"], ["no number"], ["2"])
    with pytest.raises(ValueError, match="no number"):
        futures[2].result()
    assert [futures[n].result().values.item() for n in (1, 3)] == [1, 2]


def test_who_has_gone_away_is_not_computed(encode):
    batcher = Batcher(encode, 10, 100)
    first = batcher.submit(texts("0"))
    assert encode.begun.wait(10)
    assert batcher.submit(texts("1")).cancel()
    encode.go.set()
    first.result(10)
    batcher.close()
    assert encode.batches == [["0"]]
    with pytest.raises(Refusal, match="is ending"):
        batcher.submit(texts("2"))


def test_a_long_request_gives_slices_and_what_came_meanwhile_gets_between(encode):
    encode.pace, long = 1e-4, "1" + " " * LEAST  # less than LEAST in SLICE seconds
    futures = ask(
        Batcher(encode, 10, 100), encode, ["0"], [long] * 4, ["2"], ["3" + " " * 1300] * 3
    )
    assert [[text.strip() for text in batch] for batch in encode.batches] == [
        ["0"], ["1", "2", "3", "3", "3"], ["1"], ["1"], ["1"]
    ]  # fmt: skip
    assert futures[1].result().values[:, 0].tolist() == [1, 1, 1, 1]


def test_many_long_requests_give_one_slice_to_a_batch_of_what_is_new(encode):
    encode.pace, batcher = 1e-5, Batcher(encode, 100, 100)
    long = ["1" + " " * WHOLE] * 3
    futures = [batcher.submit(texts(*long)) for _ in range(3)]
    assert encode.begun.wait(10)
    encode.go.set()
    while len(encode.batches) < 2:
        time.sleep(0.001)
    futures.append(batcher.submit(texts("2")))
    wait(futures, 10)
    batcher.close()
    with_two = next(batch for batch in encode.batches if "2" in batch)
    assert [text.strip() for text in with_two] == ["1", "2"]


def test_a_fast_model_takes_a_long_request_at_once(encode):
    encode.go.set()
    batcher = Batcher(encode, 1000, 1000)
    text = "1" + " " * (LEAST - 1)
    for _ in range(20):  # it learns that the model is fast
        batcher.submit(texts(text)).result(10)
    encode.batches.clear()
    batcher.submit(texts(*[text] * 20)).result(10)
    assert len(encode.batches) == 1
    batcher.close()


def test_a_cancelled_long_request_ends_after_its_slice(encode):
    encode.pace, batcher = 1e-4, Batcher(encode, 10, 100)
    long = batcher.submit(texts(*["1" + " " * LEAST] * 50))
    assert encode.begun.wait(10)
    assert long.cancel()
    encode.go.set()
    batcher.submit(texts("2")).result(10)
    assert len(encode.batches) == 2


def test_more_tokens_than_a_request_may_have_end_it(encode):
    futures = ask(Batcher(encode, 10, 2), encode, ["0"], ["1", "2", "3"], ["4", "5"])
    with pytest.raises(Refusal, match=r"more than 2 tokens.*serve.max_tokens") as refused:
        futures[1].result()
    assert refused.value.status == 413
    assert futures[2].result().values[:, 0].tolist() == [4, 5]


def test_at_the_end_what_waits_is_answered_until_the_time_is_over(encode):
    encode.go.set()
    batcher = Batcher(encode, 10, 1000)
    batcher.end(10)
    assert batcher.submit(texts("1")).result(10).values.item() == 1
    encode.go.clear(), encode.begun.clear()
    at_hand, waits = batcher.submit(texts("2")), None
    assert encode.begun.wait(10)
    waits = batcher.submit(texts("3"))
    batcher.end(0)
    encode.go.set()
    assert at_hand.result(10).values.item() == 2
    with pytest.raises(Refusal, match="is ending") as refused:
        waits.result(10)
    assert refused.value.status == 503
    batcher.close()
    assert not batcher.alive

from __future__ import annotations

import numpy as np
import pytest
import torch

from embsearch.data.batch import Batch


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def make(rows, known=(), weight=None, score=None, grade=None, teacher=None) -> Batch:
    """A batch of (anchor, positive, negative or -1) given as rows of the embeddings. ``known``
    adds (anchor, title) pairs to the rows' own positives."""
    known = {(a, p) for a, p, _ in rows} | set(known)
    titles = sorted({t for _, p, n in rows for t in (p, n) if t >= 0})
    anchor, positive, negative = torch.tensor(rows).T
    return Batch(
        text_D=np.unique([t for row in rows for t in row if t >= 0]),
        anchor_B=anchor,
        positive_B=positive,
        negative_B=negative,
        weight_B=torch.tensor([1.0] * len(rows) if weight is None else weight),
        title_C=torch.tensor(titles),
        known_BC=torch.tensor([[(a, t) in known for t in titles] for a, _, _ in rows]),
        score_B=torch.empty(0) if score is None else torch.tensor(score),
        grade_B2=torch.empty(0, 2) if grade is None else torch.tensor(grade),
        teacher_B2=torch.full((len(rows), 2), torch.nan)
        if teacher is None
        else torch.tensor(teacher),
    )


@pytest.fixture
def batch_of():
    return make


def draw(seed=0, negatives=0.7, count=9, texts=14):
    """Random rows with repeated anchors and titles, random weights, vectors not normalised."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        anchor, positive, negative = (
            random.choice(5),
            *(5 + random.choice(texts - 5, 2, replace=False)),
        )
        rows.append(
            (int(anchor), int(positive), int(negative) if random.random() < negatives else -1)
        )
    weight = random.uniform(0.2, 2, size=count).astype(np.float32).tolist()
    known = [(0, 5), (0, 6), (1, 7), (2, 8), (3, 9), (3, 10)]
    vectors = torch.tensor(random.normal(size=(texts, 6)) * 3, dtype=torch.float32)
    score = random.choice([0.0, 0.25, 0.7, 1.0], size=count).astype(np.float32).tolist()
    grade = random.choice([0.0, 1.0, 2.0], size=(count, 2)).astype(np.float32).tolist()
    teacher = random.normal(size=(count, 2)).astype(np.float32)
    teacher[0] = np.nan  # a row that no teacher saw
    return vectors, make(rows, known, weight, score, grade, teacher.tolist())


@pytest.fixture(params=range(5))
def drawn(request):
    return draw(request.param)

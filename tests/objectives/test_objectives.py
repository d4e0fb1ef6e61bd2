"""What holds for every objective, then each against its formula in plain Python."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.losses import (
    AnglELoss,
    ContrastiveLoss,
    CoSENTLoss,
    CosineSimilarityLoss,
    DistillKLDivLoss,
    MarginMSELoss,
    MultipleNegativesRankingLoss,
    SiameseDistanceMetric,
    TripletDistanceMetric,
    TripletLoss,
)

from embsearch.config.schema import ObjectiveConfig
from embsearch.errors import ConfigError
from embsearch.objectives.angle import AnglE
from embsearch.objectives.bce import BinaryCrossEntropy
from embsearch.objectives.build import build
from embsearch.objectives.contrastive import Contrastive
from embsearch.objectives.cosent import CoSENT
from embsearch.objectives.cosine_mse import CosineMSE
from embsearch.objectives.infonce import InfoNCE
from embsearch.objectives.kl import KL
from embsearch.objectives.listwise import Listwise
from embsearch.objectives.margin_mse import MarginMSE
from embsearch.objectives.supcon import SupCon
from embsearch.objectives.triplet import Triplet
from tests.objectives.conftest import make

EVERY = [
    Triplet(0.3),
    Contrastive(0.5),
    InfoNCE(0.1),
    InfoNCE(0.1, symmetric=True),
    BinaryCrossEntropy(0.1),
    SupCon(0.1),
]
EVERY += [Listwise(0.1)]
OF_TITLES = list(EVERY)
EVERY += [MarginMSE(0.1), KL(0.1)]
EVERY += [CoSENT(0.1), AnglE(0.1), CosineMSE()]


def name(objective):
    return repr(objective)


# --- what holds for every objective


@pytest.mark.parametrize("objective", EVERY, ids=name)
def test_the_gradient_is_that_of_finite_differences(objective, drawn):
    vectors, batch = drawn
    vectors = vectors.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: objective(v, batch), vectors, atol=1e-5)


@pytest.mark.parametrize("objective", EVERY, ids=name)
def test_only_the_direction_of_a_vector_counts(objective, drawn):
    vectors, batch = drawn
    longer = vectors * torch.linspace(0.5, 20, len(vectors))[:, None]
    torch.testing.assert_close(
        objective(longer, batch), objective(vectors, batch), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("objective", EVERY, ids=name)
def test_a_weight_of_two_is_the_row_twice(objective, drawn):
    vectors, batch = drawn
    once = replace(batch, weight_B=torch.tensor([2.0] + [1.0] * 8))
    take = torch.tensor([0, *range(9)])
    columns = ("anchor_B", "positive_B", "negative_B", "known_BC", "score_B")
    columns += ("grade_B2", "teacher_B2")
    twice = replace(once, **{c: getattr(batch, c)[take] for c in columns}, weight_B=torch.ones(10))
    torch.testing.assert_close(
        objective(vectors, once), objective(vectors, twice), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("objective", EVERY, ids=name)
def test_bf16_embeddings_under_autocast_get_fp32_mathematics(objective, drawn):
    vectors, batch = drawn
    rounded = vectors.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(rounded, batch)
    assert loss.dtype == torch.float32
    assert loss == objective(rounded.float(), batch)


@pytest.mark.parametrize("objective", EVERY, ids=name)
def test_zero_vectors_equal_vectors_and_zero_weights_stay_finite(objective, batch_of):
    batch = batch_of([(0, 1, 2), (3, 4, -1)], score=[0.0, 1.0])
    for vectors, weight in ((torch.zeros(5, 3), 1.0), (torch.ones(5, 3), 1.0), (torch.eye(5), 0.0)):
        vectors = vectors.requires_grad_()
        loss = objective(vectors, replace(batch, weight_B=torch.full((2,), weight)))
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(vectors.grad).all()


@pytest.mark.parametrize("objective", EVERY, ids=name)
def test_a_batch_whose_rows_happen_to_lack_negatives_is_finite_and_differentiable(
    objective, batch_of
):
    vectors = torch.randn(4, 3, requires_grad=True)
    loss = objective(vectors, batch_of([(0, 1, -1), (2, 3, -1)], score=[0.5, 1.0]))
    loss.backward()
    assert torch.isfinite(loss)
    if isinstance(objective, Triplet):
        assert loss == 0
        assert not vectors.grad.any()


@pytest.mark.parametrize("objective", OF_TITLES, ids=name)
def test_descending_the_gradient_brings_better_titles_before_worse_ones(objective, batch_of):
    torch.manual_seed(0)
    vectors = torch.randn(9, 8, requires_grad=True)
    batch = batch_of([(0, 3, 6), (1, 4, 7), (2, 5, 8)])
    optimizer = torch.optim.Adam([vectors], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        objective(vectors, batch).backward()
        optimizer.step()
    unit = torch.nn.functional.normalize(vectors.detach())
    assert ((unit[:3] * unit[3:6]).sum(1) > (unit[:3] * unit[6:]).sum(1) + 0.2).all()


# --- each against its formula


def cosine(vectors, a, b):
    a, b = vectors[a].double().numpy(), vectors[b].double().numpy()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def rows_of(batch):
    columns = (batch.anchor_B, batch.positive_B, batch.negative_B, batch.weight_B)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def mean(losses):
    """Of (weight, loss)."""
    return sum(w * loss for w, loss in losses) / sum(w for w, _ in losses)


def pairs(vectors, batch):
    """(weight, similarity, right or wrong) of every judged pair."""
    for a, p, n, w in rows_of(batch):
        yield w, cosine(vectors, a, p), True
        if n >= 0:
            yield w, cosine(vectors, a, n), False


def test_triplet_is_its_formula(drawn):
    vectors, batch = drawn
    leads = [
        (w, cosine(vectors, a, p) - cosine(vectors, a, n))
        for a, p, n, w in rows_of(batch)
        if n >= 0
    ]
    expected = mean([(w, max(0, 0.3 - lead)) for w, lead in leads])
    assert Triplet(0.3)(vectors, batch).item() == pytest.approx(expected, abs=1e-6)


def test_contrastive_is_its_formula(drawn):
    vectors, batch = drawn
    expected = mean(
        [
            (w, ((1 - s) if right else max(0, 0.5 - (1 - s))) ** 2 / 2)
            for w, s, right in pairs(vectors, batch)
        ]
    )
    assert Contrastive(0.5)(vectors, batch).item() == pytest.approx(expected, abs=1e-6)


def test_bce_is_its_formula(drawn):
    vectors, batch = drawn

    def loss(s, right):
        odds = 1 / (1 + math.exp(-(s - 0.5) / 0.1))
        return -math.log(odds if right else 1 - odds)

    expected = mean([(w, loss(s, right)) for w, s, right in pairs(vectors, batch)])
    assert BinaryCrossEntropy(0.1)(vectors, batch).item() == pytest.approx(
        expected, rel=1e-6, abs=1e-6
    )


def known_pairs(batch):
    titles = batch.title_C.tolist()
    return {
        (a, titles[c])
        for a, row in zip(batch.anchor_B.tolist(), batch.known_BC.tolist(), strict=True)
        for c, known in enumerate(row)
        if known
    }


def choice(vectors, one, own, others):
    """-log softmax of ``own`` among itself and ``others`` at temperature 0.1."""
    scores = [cosine(vectors, one, other) / 0.1 for other in [own, *others]]
    return math.log(sum(math.exp(score - scores[0]) for score in scores))


def test_infonce_is_its_formula(drawn):
    vectors, batch = drawn
    known = known_pairs(batch)
    expected = mean(
        [
            (w, choice(vectors, a, p, [t for t in batch.title_C.tolist() if (a, t) not in known]))
            for a, p, _, w in rows_of(batch)
        ]
    )
    assert InfoNCE(0.1)(vectors, batch).item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_symmetric_infonce_is_the_mean_with_its_mirror(drawn):
    vectors, batch = drawn
    known, anchors = known_pairs(batch), set(batch.anchor_B.tolist())
    mirror = mean(
        [
            (w, choice(vectors, p, a, [q for q in anchors if (q, p) not in known]))
            for a, p, _, w in rows_of(batch)
        ]
    )
    expected = (mirror + InfoNCE(0.1)(vectors, batch).item()) / 2
    assert InfoNCE(0.1, symmetric=True)(vectors, batch).item() == pytest.approx(
        expected, rel=1e-6, abs=1e-6
    )


def test_supcon_is_its_formula_on_pairs_of_classes(batch_of):
    vectors = torch.randn(10, 6)
    label = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    rows = [(0, 1, -1), (2, 3, -1), (4, 5, -1), (6, 7, -1), (8, 9, -1)]
    same = [(a, b) for a in range(10) for b in range(10) if label[a] == label[b]]
    weight = [1.0, 0.5, 2.0, 1.0, 1.0]
    losses = []
    for (one, other, _), w in zip(rows, weight, strict=True):
        for text in (one, other):
            rest = [b for b in range(10) if b != text]
            mates = [b for b in rest if label[b] == label[text]]
            total = math.log(sum(math.exp(cosine(vectors, text, b) / 0.1) for b in rest))
            own = [total - cosine(vectors, text, b) / 0.1 for b in mates]
            losses.append((w, sum(own) / len(own)))
    found = SupCon(0.1)(vectors, batch_of(rows, known=same, weight=weight))
    assert found.item() == pytest.approx(mean(losses), rel=1e-6)


# --- lists of titles

LISTS = [
    (0, 2, 4),
    (0, 3, 4),
    (0, 3, 2),
    (1, 5, 6),
    (1, 5, 7),
]  # query 0 has 2, 3, 4; 1 has 5, 6, 7
GRADES = [[1.0, 0.0], [2.0, 0.0], [2.0, 1.0], [1.0, 0.0], [1.0, 0.0]]


def test_the_listwise_loss_is_torch_cross_entropy_with_the_gains_of_ndcg_as_target(batch_of):
    vectors, weight = torch.randn(8, 6), [1.0, 0.5, 2.0, 1.0, 3.0]
    unit = torch.nn.functional.normalize(vectors, dim=1)
    logits = unit[[0, 1]] @ unit[2:].T / 0.1
    gain = torch.tensor([[1.0, 3, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0]])
    loss_Q = torch.nn.functional.cross_entropy(
        logits, gain / gain.sum(1, keepdim=True), reduction="none"
    )
    expected = (loss_Q * torch.tensor([3.5, 4.0])).sum() / 7.5  # weights of the rows of a query
    batch = batch_of(LISTS, weight=weight, grade=GRADES)
    torch.testing.assert_close(Listwise(0.1)(vectors, batch), expected, rtol=1e-5, atol=1e-6)


def test_the_listwise_loss_of_queries_with_one_good_title_is_infonce(batch_of):
    vectors = torch.randn(6, 6)
    batch = batch_of([(0, 2, 4), (1, 3, 5)], known=[(0, 3)])
    torch.testing.assert_close(
        Listwise(0.1)(vectors, batch), InfoNCE(0.1)(vectors, batch), rtol=1e-5, atol=1e-6
    )


def test_a_listwise_title_of_a_higher_grade_is_pulled_more(batch_of):
    batch = batch_of(LISTS[:3], grade=GRADES[:3])
    pull = -gradient(Listwise(0.1), batch, torch.eye(5)) @ torch.eye(5)[0]
    assert pull[3] > pull[2] > pull[4]


TEACHER = [
    [3.0, 1.0],
    [3.0, -2.0],
    [0.5, 0.25],
    [0.5, 2.0],
]  # of 0: 2 against 3 and 4; of 1: 5 to 7


@pytest.mark.parametrize(
    ("ours", "loss"), [(MarginMSE(0.05), MarginMSELoss), (KL(0.05), DistillKLDivLoss)], ids=repr
)
def test_losses_of_a_teacher_are_sentence_transformers(batch_of, ours, loss):
    vectors = torch.randn(8, 6)
    rows = [(0, 2, 3), (0, 2, 4), (1, 5, 6), (1, 5, 7)]
    labels = torch.tensor([[3.0, 1.0, -2.0], [0.5, 0.25, 2.0]])
    columns = [vectors[[0, 1]], vectors[[2, 5]], vectors[[3, 6]], vectors[[4, 7]]]
    reference = loss(None, similarity_fct=lambda a, b: torch.cosine_similarity(a, b) / 0.05)
    theirs = reference.compute_loss_from_embeddings(columns, labels)
    found = ours(vectors, batch_of(rows, teacher=TEACHER))
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("objective", [MarginMSE(0.5), KL(0.1)], ids=name)
def test_a_teacher_puts_a_false_negative_before_the_positive(objective, batch_of):
    torch.manual_seed(0)
    vectors = torch.randn(3, 8, requires_grad=True)
    batch = batch_of([(0, 1, 2)], teacher=[[-1.0, 1.0]])
    optimizer = torch.optim.Adam([vectors], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        objective(vectors, batch).backward()
        optimizer.step()
    found = torch.cosine_similarity(vectors[:1], vectors[1:])
    assert found[1] > found[0]


# --- what InfoNCE leaves out


def gradient(objective, batch, vectors):
    vectors = vectors.clone().requires_grad_()
    objective(vectors, batch).backward()
    return vectors.grad


def test_a_known_positive_of_the_query_gets_no_gradient_as_its_negative(batch_of):
    # text 3 is row 1's title and, elsewhere in the data, also right for query 0
    vectors = torch.randn(4, 5)
    weight = [1.0, 0.0]  # row 1 only lends its title
    rows = [(0, 1, -1), (2, 3, -1)]
    assert gradient(InfoNCE(0.1), batch_of(rows, weight=weight), vectors)[3].any()
    masked = gradient(InfoNCE(0.1), batch_of(rows, known=[(0, 3)], weight=weight), vectors)
    assert not masked.any()


def test_the_mirror_leaves_out_queries_that_the_title_is_right_for(batch_of):
    vectors = torch.randn(4, 5)
    rows, weight = [(0, 1, -1), (2, 3, -1)], [1.0, 0.0]
    open_, masked = (
        gradient(InfoNCE(0.1, symmetric=True), batch_of(rows, known, weight), vectors)
        for known in ([], [(2, 1)])
    )
    assert open_[2].any()
    assert not masked[2].any()


def test_a_title_that_is_the_query_itself_is_not_its_negative(batch_of):
    # row 1's title is the text of row 0's query
    vectors = torch.randn(3, 5)
    loss = InfoNCE(0.1)(vectors, batch_of([(0, 1, -1), (2, 0, -1)], weight=[1.0, 0.0]))
    assert loss == 0


# --- the same as sentence-transformers, where the formulas coincide

DISTINCT = [(0, 3, 6), (1, 4, 7), (2, 5, 8)]
COLUMNS = ([0, 1, 2], [3, 4, 5], [6, 7, 8])


def theirs(loss, vectors, columns, labels=None):
    return loss.compute_loss_from_embeddings([vectors[column] for column in columns], labels)


def test_triplet_is_sentence_transformers(batch_of):
    vectors = torch.randn(9, 8)
    loss = TripletLoss(None, TripletDistanceMetric.COSINE, triplet_margin=0.3)
    torch.testing.assert_close(
        Triplet(0.3)(vectors, batch_of(DISTINCT)),
        theirs(loss, vectors, COLUMNS),
        rtol=1e-5,
        atol=1e-6,
    )


def test_contrastive_is_sentence_transformers(batch_of):
    vectors = torch.randn(9, 8)
    loss = ContrastiveLoss(None, SiameseDistanceMetric.COSINE_DISTANCE, margin=0.5)
    columns = ([0, 1, 2, 0, 1, 2], [3, 4, 5, 6, 7, 8])
    labels = torch.tensor([1, 1, 1, 0, 0, 0])
    torch.testing.assert_close(
        Contrastive(0.5)(vectors, batch_of(DISTINCT)),
        theirs(loss, vectors, columns, labels),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("symmetric", [False, True])
def test_infonce_is_sentence_transformers(batch_of, symmetric):
    vectors = torch.randn(9, 8)
    directions = ("query_to_doc", "doc_to_query") if symmetric else ("query_to_doc",)
    loss = MultipleNegativesRankingLoss(
        None,
        scale=20.0,
        directions=directions,
        partition_mode="per_direction" if symmetric else "joint",
    )
    ours = InfoNCE(0.05, symmetric)(vectors, batch_of(DISTINCT))
    torch.testing.assert_close(ours, theirs(loss, vectors, COLUMNS), rtol=1e-5, atol=1e-6)


SCORES = [0.9, 0.2, 0.2]


@pytest.mark.parametrize("width", [8, 7])
@pytest.mark.parametrize(
    ("ours", "loss"),
    [
        (CoSENT(0.05), CoSENTLoss(None, scale=20.0)),
        (AnglE(0.05), AnglELoss(None, scale=20.0)),
        (CosineMSE(), CosineSimilarityLoss(None)),
    ],
    ids=repr,
)
def test_losses_of_scores_are_sentence_transformers(batch_of, ours, loss, width):
    vectors = torch.randn(6, width)
    batch = batch_of([(0, 3, -1), (1, 4, -1), (2, 5, -1)], score=SCORES)
    found = theirs(loss, vectors, ([0, 1, 2], [3, 4, 5]), torch.tensor(SCORES))
    torch.testing.assert_close(ours(vectors, batch), found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("objective", [CoSENT(0.05), CosineMSE()], ids=name)
def test_descending_the_gradient_brings_cosines_into_the_order_of_the_scores(objective, batch_of):
    torch.manual_seed(0)
    vectors = torch.randn(6, 8, requires_grad=True)
    batch = batch_of([(0, 3, -1), (1, 4, -1), (2, 5, -1)], score=[0.1, 0.5, 0.9])
    optimizer = torch.optim.Adam([vectors], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        objective(vectors, batch).backward()
        optimizer.step()
    unit = torch.nn.functional.normalize(vectors.detach())
    low, middle, high = (unit[:3] * unit[3:]).sum(1).tolist()
    assert low + 0.1 < middle < high - 0.1


def test_rows_of_one_score_have_no_order():
    vectors, batch = torch.randn(4, 5), make([(0, 1, -1), (2, 3, -1)], score=[0.5, 0.5])
    for objective in (CoSENT(0.05), AnglE(0.05)):
        assert objective(vectors, batch) == 0
        assert not gradient(objective, batch, vectors).any()


# --- building one


def test_the_config_builds_each_and_a_misspelt_name_is_answered():
    assert build(ObjectiveConfig("triplet", margin=0.2)) == Triplet(0.2)
    assert build(ObjectiveConfig("contrastive", margin=0.4)) == Contrastive(0.4)
    assert build(ObjectiveConfig("infonce", temperature=0.02, symmetric=True)) == InfoNCE(
        0.02, symmetric=True
    )
    assert build(ObjectiveConfig("bce", temperature=0.2)) == BinaryCrossEntropy(0.2)
    assert build(ObjectiveConfig("cosent", temperature=0.2)) == CoSENT(0.2)
    assert build(ObjectiveConfig("cosine_mse")) == CosineMSE()
    assert build(ObjectiveConfig()) == InfoNCE(0.05)
    with pytest.raises(ConfigError, match="Did you mean 'infonce'"):
        build(ObjectiveConfig("infonec"))  # type: ignore[arg-type]

"""AdamW with decay on matrices only, and the learning rate as a function of the step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from embsearch.config.schema import TrainConfig
from embsearch.model.readers import TABLES
from embsearch.model.tower import Tower


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Fused AdamW over the trainable parameters.

    ``config.l2`` is decoupled weight decay (Loshchilov & Hutter 2019); biases, norms and the
    rows of embedding tables get none: a decayed row of an absent token would drift.
    """
    rows = {
        id(p) for m in model.modules() if isinstance(m, TABLES) for p in m.parameters(recurse=False)
    }
    trainable = [p for p in model.parameters() if p.requires_grad]
    plain = [p for p in trainable if p.ndim < 2 or id(p) in rows]
    decayed = [p for p in trainable if p.ndim >= 2 and id(p) not in rows]
    groups = [
        {"params": decayed, "weight_decay": config.l2},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, fused=True)


def clip(encoder: Tower, longest: float) -> Tensor:
    """Return the length of the gradient, which is at most ``longest`` afterwards; as
    ``clip_grad_norm_``.
    """
    gradient = encoder.gradient()
    if gradient is None:
        return torch.nn.utils.clip_grad_norm_(encoder.parameters(), longest)
    norm: Tensor = torch.linalg.vector_norm(gradient)
    gradient.mul_((longest / (norm + 1e-6)).clamp(max=1.0))
    return norm


def warmup_steps(config: TrainConfig, steps: int, first: int) -> int:
    """Return the steps of warm-up in a trial of ``steps`` that is first measured after ``first``.

    A share ends by then: whatever is compared has had its full rate. Steps that are given are kept.
    """
    if config.warmup_steps is not None:
        return config.warmup_steps
    share = round(config.warmup * steps, 6)  # 0.29 * 100 is 28.999999999999996
    return min(math.floor(share), first)


def learning_rate(step: int, steps: int, warmup: int, config: TrainConfig) -> float:
    """Return the rate of step ``step`` (from 0) of ``steps``: linear warm-up, then the schedule to 0.

    Warm-up that outlasts the budget leaves the rate below ``config.lr``: the budget decides.
    """
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    done = (step - warmup) / max(1, steps - warmup)
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.lr * max(0.0, 1 - done)

"""A check that a model is made of plain modules alone, as kernels take for granted.

A kernel may read a module's parameters instead of calling it. So a module that somebody wrapped,
exchanged or hooked would be passed over: an adapter would get no gradient.
"""

from __future__ import annotations

from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
PLAIN_HOMES = (
    "torch.nn.modules.",
    "transformers.",
    "sentence_transformers.",
    "peft.tuners.lora.layer.",  # layers by hand ask for more: model/lora.py, plain
)


def not_plain(model: nn.Module, home: str) -> str:
    """Return which module of ``model`` is not plain, and why; empty where all are.

    A module is plain if its class is torch's, transformers', sentence-transformers', peft's LoRA or
    of the Python package ``home``, with no hooks, no parametrizations and no forward of its own.
    """
    for name, module in model.named_modules():
        why = _why_not(module, home)
        if why:
            return f"{name or 'the model'} {why}"
    return ""


def home_of(base: nn.Module) -> str:
    """Return the Python package of a model's own code, with a dot at the end."""
    return type(base).__module__.rpartition(".")[0] + "."


def _why_not(module: nn.Module, home: str) -> str:
    kind = type(module)
    if any(getattr(module, hooks, None) for hooks in HOOKS):
        return "has hooks"
    if hasattr(module, "parametrizations"):
        return "has parametrizations"
    if "forward" in vars(module):
        return "has another forward than its class"
    if not f"{kind.__module__}.".startswith((*PLAIN_HOMES, home)):
        return f"is a {kind.__qualname__} of {kind.__module__}"
    return ""

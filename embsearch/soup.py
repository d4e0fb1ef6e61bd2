"""A soup: one model whose weights are the mean of several that were trained from the same base.

Runs of one configuration with other seeds end in the same basin, where the mean of their weights is
better than each of them on the average, at the size and speed of one (Wortsman et al. 2022).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from embsearch.errors import ModelError
from embsearch.model.files import ADAPTER

WEIGHTS = "*.safetensors"


def average(members: Sequence[Path], folder: Path) -> None:
    """Write the soup of saved models into ``folder``: everything but the weights as the first has it.

    Raises ModelError where one is gone, ValueError where one has other weights.
    """
    if gone := [member for member in members if not member.exists()]:
        raise ModelError(
            f"{gone[0]}: gone, and the soup is the mean of it and others; put it back, or go on "
            "without soups: confirm.soup=false"
        )
    first = members[0]
    # an adapter is of one member: its weights are in the others', which are averaged
    shutil.copytree(first, folder, ignore=lambda at, _: [ADAPTER] if Path(at) == first else [])
    for file in sorted(folder.rglob(WEIGHTS)):
        place = file.relative_to(folder)
        tensors, metadata = _mean([member / place for member in members])
        save_file(tensors, file, metadata)


def _mean(files: Sequence[Path]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the mean of the tensors of several files, by name, and the first file's metadata."""
    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(file, "pt")) for file in files]
        names = [sorted(one.keys()) for one in opened]
        if any(theirs != names[0] for theirs in names):
            raise ValueError(f"{files[0].name}: the models of a soup do not have the same weights")
        found = {}
        for name in names[0]:
            tensors = [one.get_tensor(name) for one in opened]
            first = tensors[0]
            if first.is_floating_point():
                first = torch.stack([one.float() for one in tensors]).mean(0).to(first.dtype)
            found[name] = first.contiguous()
        return found, opened[0].metadata()

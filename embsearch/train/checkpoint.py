"""Everything that a trial needs to go on with the same bits, in one safetensors file.

No pickle: tensors by name, the rest as JSON in the header, with a checksum of it all. Written under
a temporary name, fsynced, atomically replaced: whoever reads sees the old one whole or the new one whole.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from embsearch import disk
from embsearch.codec import JsonObject
from embsearch.errors import DamagedCheckpoint, UserError
from embsearch.model.pretrained import disk_errors


def save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    position: JsonObject,
    ended: bool = False,
) -> None:
    """``position`` is plain JSON: step, texts seen, best so far, ... Raises OSError (disk full).

    A trial that has ``ended`` trains no more: its position is kept alone, which takes no time.
    """
    tensors = {} if ended else {f"model/{n}": p.detach().contiguous() for n, p in _state(model)}
    for index, state in () if ended else optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer/{index}/{k}": torch.as_tensor(v).contiguous() for k, v in state.items()
        }
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    words = json.dumps(position)
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk.whole(path) as draft, disk_errors():
        save_file(
            tensors, draft, metadata={"position": words, "checksum": str(checksum(tensors, words))}
        )


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> JsonObject:
    """Put everything back and return ``position``.

    Raises DamagedCheckpoint before anything is touched, UserError for a checkpoint of another model.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
            words, expected = file.metadata()["position"], file.metadata()["checksum"]
        if str(checksum(tensors, words)) != expected:
            raise ValueError("its checksum is another")
        position: JsonObject = json.loads(words)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise DamagedCheckpoint(f"{path}: not a whole checkpoint ({error})") from error
    if not any(name.startswith("model/") for name in tensors):
        return position  # of a trial that has ended
    wanted = {f"model/{name}": own.shape for name, own in _state(model)}
    if wanted != {name: t.shape for name, t in tensors.items() if name.startswith("model/")}:
        raise UserError(
            f"{path}: a checkpoint of another model; delete it to start this trial again"
        )
    with torch.no_grad():
        for name, own in _state(model):
            own.copy_(tensors[f"model/{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        room, _, rest = name.partition("/")
        if room == "optimizer":
            index, key = rest.split("/")
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    torch.set_rng_state(tensors["random/cpu"])
    if torch.cuda.is_available() and "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"])
    return position


def checksum(tensors: Mapping[str, Tensor], words: str) -> int:
    """CRC-32 over everything: safetensors notices a file that is cut, not a byte that is another."""
    found = zlib.crc32(words.encode())
    for name in sorted(tensors):
        found = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, found)
    return found


def _state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what training changes: trainable parameters (frozen ones are the base's own)."""
    yield from ((n, p) for n, p in model.named_parameters() if p.requires_grad)

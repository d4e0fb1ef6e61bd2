"""The device and precision that a worker computes with, and why: decided once, said aloud."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from embsearch.errors import ConfigError, EmbsearchError, UserError
from embsearch.values import Scalar


@dataclass(frozen=True)
class Compute:
    """``autocast`` is None for plain fp32. ``why`` is shown to the user. ``sharers``: workers on this GPU."""

    device: torch.device
    autocast: torch.dtype | None
    why: str
    sharers: int = 1

    def words(self) -> dict[str, Scalar]:
        """Return what results depend on, for the record: ``device``, ``threads``, ``precision``.
        The CPU with the widest instructions that torch's kernels use of it, which decide in what
        order sums are taken.
        """
        cpu = self.device.type != "cuda"
        name = (
            f"cpu, {torch.backends.cpu.get_cpu_capability()}"
            if cpu
            else torch.cuda.get_device_name(self.device)
        )
        precision = "fp32" if self.autocast is None else "bf16"
        return {"device": name, "threads": torch.get_num_threads(), "precision": precision}

    def context(self) -> torch.autocast:
        """Weights stay fp32; matrix products run in ``autocast``."""
        return torch.autocast(
            self.device.type,
            dtype=self.autocast or torch.bfloat16,
            enabled=self.autocast is not None,
        )


def product_dtype(given: Tensor) -> torch.dtype:
    """Return the dtype of matrix products on a CPU: autocast's, or that of ``given``."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return given.dtype


def is_out_of_memory(error: BaseException) -> bool:
    """Also of the CPU's allocator, which raises a plain RuntimeError."""
    return isinstance(
        error, (torch.OutOfMemoryError, MemoryError)
    ) or "can't allocate memory" in str(error)


def failure_of(error: Exception) -> tuple[str, str]:
    """Return the failure class of what ended a task, and its message. Memory for weights or
    optimizer states is one too: nothing there could be made smaller.
    """
    if isinstance(error, OSError):
        return ("disk_full" if error.errno in (28, 122) else "bug"), str(error)
    if isinstance(error, EmbsearchError):
        return getattr(error, "failure", "data" if isinstance(error, UserError) else "bug"), str(
            error
        )
    return (
        "out_of_memory" if is_out_of_memory(error) else "bug"
    ), f"{type(error).__name__}: {error}"


def reason(error: Exception) -> str:
    """Return what failed in a line, never an empty one."""
    return next(iter(failure_of(error)[1].splitlines()), "") or type(error).__name__


def choose(device: str, precision: str) -> Compute:
    """Return the compute for config ``device`` and ``train.precision``. Raises ConfigError."""
    made = _choose(device, precision)
    if (
        made.device.index is not None
    ):  # random states, streams and graphs are of torch's current GPU
        torch.cuda.set_device(made.device)
    return replace(
        made, sharers=int(os.environ.get("EMBSEARCH_GPU_SHARERS", "1"))
    )  # set by launch/local.py


def _choose(device: str, precision: str) -> Compute:
    found = torch.cuda.is_available()
    if device.startswith("cuda") and not found:
        raise ConfigError(
            f"device={device}: torch {torch.__version__} sees no CUDA GPU; use device=cpu or device=auto"
        )
    place = torch.device(
        "cuda" if device == "auto" and found else "cpu" if device == "auto" else device
    )
    if precision == "fp32":
        return Compute(place, None, "fp32: asked for by train.precision")
    if place.type == "cuda":
        good = torch.cuda.is_bf16_supported(including_emulation=False)
        reason = f"{torch.cuda.get_device_name(place)} {'computes' if good else 'does not compute'} bf16 natively"
    else:
        good = bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
        reason = (
            f"this CPU {'has' if good else 'lacks'} bf16 matrix instructions (avx512_bf16 or amx)"
        )
    if precision == "bf16":
        return Compute(
            place,
            torch.bfloat16,
            "bf16: asked for by train.precision" + ("" if good else f", though {reason}"),
        )
    return (
        Compute(place, torch.bfloat16, f"bf16: {reason}")
        if good
        else Compute(place, None, f"fp32: {reason}")
    )

"""The text that ``embsearch data check`` prints of several sets of data: a section for each."""

from __future__ import annotations

from collections.abc import Mapping

from embsearch.data import check, check_classes
from embsearch.data.check import Lengths
from embsearch.data.class_data import ClassData
from embsearch.data.dataset import Dataset
from embsearch.data.several import SeveralData


def describe(
    data: SeveralData, lengths: Lengths | None = None, prompts: Mapping[str, str] | None = None
) -> str:
    """Return the sections. ``prompts`` by role: example rows show those of their set."""
    parts = []
    for name, one in data.sets.items():
        own = {
            role: (prompts or {}).get(f"{name}_{role}", (prompts or {}).get(role, ""))
            for role in ("query", "document")
        }
        parts.append(f"set {name}\n\n{_section(one, lengths, own)}")
    return "\n".join(parts) + f"\nfingerprint of all sets {data.fingerprint}\n"


def _section(data: object, lengths: Lengths | None, prompts: Mapping[str, str]) -> str:
    if isinstance(data, ClassData):
        return check_classes.describe(data, lengths, prompts)
    assert isinstance(data, Dataset), "tasks of ours have no other data"
    return check.describe(data, lengths, prompts)

"""Under which licence a base model stands, by what its own files say."""

from __future__ import annotations

from pathlib import Path

from embsearch.model.pretrained import find


def licence_of(path: str) -> str | None:
    """The licence in the head of the model card of ``model.path``, a folder or a hub name; None where it has none."""
    from huggingface_hub import ModelCard

    where = find(path)
    card = Path(where) / "README.md"
    try:
        if not card.exists() and Path(where).is_dir():
            return None
        name = ModelCard.load(card if card.exists() else where).data.get("license")
    except Exception:  # no network, no card, a head that is no YAML: nothing is named then
        return None
    return str(name) if name else None

"""A study's data where each text has a class, as arrays over distinct texts.

No torch here: the coordinator reads this too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embsearch.codec import JsonObject
from embsearch.data.dataset import Ids, Triplets, read_arrays, write_arrays

ROW_COLUMNS = ("text", "label", "segment")


@dataclass(frozen=True)
class ClassRows:
    """Evaluation rows, one a text, and the training texts that stand for each class.

    ``label`` indexes ``classes``, ``segment`` indexes ``segments`` (-1: none). The centre of a
    class is the mean of the texts ``centre`` whose ``centre_label`` it is.
    """

    text: Ids  # (M,)
    label: Ids  # (M,)
    segment: Ids  # (M,)
    centre: Ids  # (R,)
    centre_label: Ids  # (R,)
    classes: tuple[str, ...]
    segments: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.text)

    def where(self, kept_M: NDArray[np.bool_]) -> ClassRows:
        """Return the rows where ``kept_M`` is true; the centres stay."""
        return replace(self, **{name: getattr(self, name)[kept_M] for name in ROW_COLUMNS})


@dataclass(frozen=True)
class ClassData:
    """Everything a study of classes trains on and is judged by.

    ``train`` has each training text with the next one of its class; batches pair them anew
    (data/class_batches.py). ``label`` is the class of each text, by which texts of one class are
    known to belong together.
    """

    texts: tuple[str, ...]
    label: Ids  # (T,)
    classes: tuple[str, ...]
    train: Triplets
    valid: ClassRows
    test: ClassRows
    report: JsonObject = field(default_factory=dict)
    symmetric: bool = True  # every text has the role of a query

    @property
    def known(self) -> Ids:
        """(0, 2): no pair is named; ``label`` says more."""
        return np.empty((0, 2), dtype=np.int32)

    @property
    def fingerprint(self) -> str:
        """A sha256 over the rows."""
        digest = hashlib.sha256(json.dumps([self.texts, self.classes]).encode())
        for name, array in self._arrays().items():
            digest.update(f"{name} {len(array)} ".encode() + array.tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write to ``folder`` whole or not at all; a folder already there is left as it is."""
        head = {
            "texts": self.texts,
            "classes": self.classes,
            "segments": {"valid": self.valid.segments, "test": self.test.segments},
            "report": self.report,
        }
        write_arrays(folder, self._arrays(), head)

    @staticmethod
    def load(folder: Path) -> ClassData:
        """Return the data that ``save`` wrote. Raises DataError."""
        head, arrays = read_arrays(folder)
        classes = tuple(head["classes"])
        judged = {
            split: ClassRows(
                **{name: arrays[f"{split}.{name}"] for name in ROW_COLUMNS},
                centre=arrays["centre"],
                centre_label=arrays["centre_label"],
                classes=classes,
                segments=tuple(head["segments"][split]),
            )
            for split in ("valid", "test")
        }
        return ClassData(
            texts=tuple(head["texts"]),
            label=arrays["label"],
            classes=classes,
            train=pairs_of_classes(arrays["trained"], arrays["label"], arrays["weight"]),
            valid=judged["valid"],
            test=judged["test"],
            report=head["report"],
        )

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        judged = {
            f"{split}.{name}": getattr(rows, name)
            for split, rows in (("valid", self.valid), ("test", self.test))
            for name in ROW_COLUMNS
        }
        return {
            "label": self.label,
            "trained": self.train.anchor,
            "weight": self.train.weight,
            "centre": self.valid.centre,
            "centre_label": self.valid.centre_label,
            **judged,
        }


def pairs_of_classes(
    texts_N: Ids, label_T: Ids, weight_N: NDArray[np.float32], shift: int = 1
) -> Triplets:
    """Return each text with the one that stands ``shift`` places on among those of its class."""
    partner_N = np.empty_like(texts_N)
    labels = label_T[texts_N]
    order = np.argsort(labels, kind="stable")
    for of_class in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        partner_N[of_class] = np.roll(
            texts_N[of_class], -1 - (shift - 1) % max(len(of_class) - 1, 1)
        )
    return Triplets(texts_N, partner_N, np.full_like(texts_N, -1), weight_N)

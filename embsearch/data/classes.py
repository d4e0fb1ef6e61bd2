"""Texts with a class to the arrays of a study.

A class needs two training texts to form a pair; one alone still is its class's centre. A centre is
made of training texts, CENTRES in all or FEWEST of a class, chosen by a salted hash of the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from embsearch.codec import JsonObject
from embsearch.config.schema import DataConfig
from embsearch.data.class_data import ClassData, ClassRows, pairs_of_classes
from embsearch.data.faults import Fault, quoted, refusal
from embsearch.data.keys import salted
from embsearch.data.source_files import SPLITS

CENTRES, FEWEST = 2000, 32


def known_classes(frame: pd.DataFrame, config: DataConfig) -> tuple[pd.DataFrame, list[Fault]]:
    """Return the rows whose class has a training text, and the others as faults.

    Raises DataError with these unless ``data.on_bad_row`` is drop.
    """
    trained = set(frame["label"][frame["split"] == "train"])
    known = frame["label"].isin(trained)
    faults = []
    for row in frame[~known].to_dict("records"):
        what = (
            f"class {quoted(row['label'])} has no training text; expected every class of "
            f"{row['split']} among the training rows, else no text can be given to it"
        )
        cells = {"text": row["query"], "label": row["label"]}
        faults.append(Fault(row["file"], int(row["row"]), "class without training", what, cells))
    if faults and config.on_bad_row == "error":
        raise refusal(faults)
    return frame[known].reset_index(drop=True), faults


def faults_of_classes(frame: pd.DataFrame) -> list[str]:
    """Return what makes the rows useless."""
    train = frame[frame["split"] == "train"]
    sizes = train["label"].value_counts()
    found = []
    if len(sizes) < 2:
        found.append(
            f"the training rows are of {len(sizes)} class: expected two or more to tell apart; "
            "name the column of the class with data.columns.label=HEADER"
        )
    elif sizes.max() < 2:
        found.append(
            f"each of the {len(sizes)} classes has one training text: expected two or more of a "
            "class, to be brought together; name the column of the class with "
            "data.columns.label=HEADER"
        )
    if not (frame["split"] == "valid").any():
        found.append(
            "no validation rows: expected classes with four texts or more, or a file for data.valid"
        )
    if len(train) and not train["weight"].sum() > 0:
        found.append("every training row has weight 0: nothing would be learnt; give some a weight")
    return found


def make_classes(frame: pd.DataFrame, report: JsonObject) -> ClassData:
    """Make the data of rows of query, label, weight, segment and split, each text once."""
    rows = {split: frame[frame["split"] == split] for split in SPLITS}
    frame = pd.concat(rows.values(), ignore_index=True)
    texts = tuple(dict.fromkeys(frame["query"]))
    ids = {text: at for at, text in enumerate(texts)}
    classes = tuple(sorted(set(frame["label"])))
    places = {name: at for at, name in enumerate(classes)}
    label_T = np.empty(len(texts), dtype=np.int32)
    label_T[[ids[text] for text in frame["query"]]] = [places[name] for name in frame["label"]]

    trained = np.array([ids[text] for text in rows["train"]["query"]], dtype=np.int32)
    weight = rows["train"]["weight"].to_numpy(np.float32)
    paired = np.bincount(label_T[trained])[label_T[trained]] > 1
    centre = _centres(trained, label_T, texts)

    def judged(part: pd.DataFrame) -> ClassRows:
        segments = sorted(set(part["segment"]) - {""})
        numbers = {name: n for n, name in enumerate(segments)} | {"": -1}
        own = np.array([ids[text] for text in part["query"]], dtype=np.int32)
        return ClassRows(
            text=own,
            label=label_T[own],
            segment=np.array([numbers[name] for name in part["segment"]], dtype=np.int32),
            centre=centre,
            centre_label=label_T[centre],
            classes=classes,
            segments=tuple(segments),
        )

    return ClassData(
        texts=texts,
        label=label_T,
        classes=classes,
        train=pairs_of_classes(trained[paired], label_T, weight[paired]),
        valid=judged(rows["valid"]),
        test=judged(rows["test"]),
        report={
            **report,
            "splits": {split: _counts(part) for split, part in rows.items()},
            "triplets": 0,
            "pairs": int(paired.sum()),
            "centres": len(centre),
            "alone": sorted(classes[label] for label in label_T[trained[~paired]].tolist()),
        },
    )


def _centres(trained: np.ndarray, label_T: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Return the training texts that centres are made of, rising."""
    classes = label_T[trained]
    most = max(FEWEST, CENTRES // (int(classes.max(initial=0)) + 1))
    place = np.array([salted(0, "centre", texts[i]) for i in trained.tolist()], dtype=np.uint64)
    kept = []
    for label in np.unique(classes):
        of_class = trained[classes == label]
        kept.append(of_class[np.argsort(place[classes == label], kind="stable")[:most]])
    return np.sort(np.concatenate(kept)) if kept else trained


def _counts(rows: pd.DataFrame) -> JsonObject:
    return {
        "rows": len(rows),
        "classes": rows["label"].nunique(),
        "sizes": {str(name): int(count) for name, count in rows["label"].value_counts().items()},
    }

"""TensorBoard's records: points, searched parameters and text as events, and their file.

Nothing here imports tensorboard before it is called.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from embsearch import disk
from embsearch.codec import Json
from embsearch.track.mirror import Point, TrialMirror, short_names
from embsearch.values import Scalar

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.summary_v2 import Discrete, RealInterval

VERSION = "brain.Event:2"  # of the file format


class EventFile:
    """A run of TensorBoard: the one event file of a folder.

    TensorBoard's own writer begins a file and a thread whenever it is made, and a study keeps many
    trials paused. This one holds nothing open between two writes.
    """

    def __init__(self, folder: Path, created: int) -> None:
        self._path = folder / "events.out.tfevents.embsearch"
        self._created = created  # Unix ms
        self._begun = False

    def write(self, events: Iterable[Event]) -> None:
        """Append events. The first write of a process gives the file from its beginning.

        If the file begins with the same bytes, only the rest is appended; else it is replaced.
        """
        if self._begun:
            self._append(_records(events))
            return
        whole = _records([_event(self._created, 0, file_version=VERSION), *events])
        there = self._path.read_bytes() if self._path.exists() else b""
        if there and whole.startswith(there):
            self._append(whole[len(there) :])
        else:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # not disk.whole: TensorBoard also reads a draft whose name holds "tfevents"
            draft = self._path.with_name(f".{self._path.parent.name}.{os.getpid()}")
            draft.write_bytes(whole)
            disk.put(draft, self._path)
        self._begun = True

    def _append(self, data: bytes) -> None:
        if data:
            with self._path.open("r+b") as file:  # which must be there
                file.seek(0, os.SEEK_END)
                file.write(data)


def point(at: Point) -> Event:
    """Return one value of one metric as an event, in fp32."""
    return _event(at.time, at.step, tag=at.key, simple_value=at.value)


def text(tag: str, words: str, time: int, step: int = 0) -> Event:
    """Return Markdown for the page Text; ``time`` in Unix milliseconds."""
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.text.metadata import create_summary_metadata

    tensor = TensorProto(dtype=DT_STRING, string_val=[words.encode()])
    return _event(time, step, tag=tag, tensor=tensor, metadata=create_summary_metadata(tag, ""))


def parameters(trial: TrialMirror) -> Event:
    """Return a trial's axes, for the page HParams."""
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb

    axes = {name: _plain(value) for name, value in trial.axes.items()}
    return _hparams(
        hparams_pb(axes, trial_id=trial.name, start_time_secs=trial.created / 1000), trial.created
    )


def end(mirror: TrialMirror) -> Event:
    """Return a trial's end: its time, and success or failure."""
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    status = api_pb2.STATUS_FAILURE if mirror.trial.state == "failed" else api_pb2.STATUS_SUCCESS
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=mirror.ended / 1000)
    data = metadata.create_summary_metadata(
        plugin_data_pb2.HParamsPluginData(session_end_info=info)
    )
    return _event(mirror.ended, 0, tag=metadata.SESSION_END_INFO_TAG, metadata=data)


def space(dimensions: Json, metrics: Mapping[str, str], created: int) -> Event:
    """Return the searched parameters with their ranges, and the names of ``metrics`` by tag."""
    from tensorboard.plugins.hparams.summary_v2 import HParam, Metric, hparams_config_pb

    names = short_names(dimensions)
    axes = [HParam(names[path], _domain(dimension)) for path, dimension in dimensions.items()]
    shown = [Metric(tag, display_name=name) for tag, name in metrics.items()]
    return _hparams(hparams_config_pb(axes, shown, time_created_secs=created / 1000), created)


def _domain(dimension: Json) -> RealInterval | Discrete | None:
    from tensorboard.plugins.hparams.summary_v2 import Discrete, RealInterval

    if "choices" not in dimension:
        low, high = dimension.get("low"), dimension.get("high")
        return None if low is None or high is None else RealInterval(float(low), float(high))
    choices = [_plain(choice) for choice in dimension["choices"]]
    kinds = {type(choice) for choice in choices}
    if len(kinds) > 1:  # a domain has one
        choices = (
            [float(c) for c in choices] if kinds == {int, float} else [str(c) for c in choices]
        )
    return Discrete(choices)


def _plain(value: Scalar) -> float | int | str | bool:
    return "none" if value is None else value


def _hparams(summary: Summary, time: int) -> Event:
    """Return the plugin's summary as an event with the same bytes in every process: maps are
    sorted.
    """
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    (value,) = summary.value
    content = value.metadata.plugin_data
    content.content = HParamsPluginData.FromString(content.content).SerializeToString(
        deterministic=True
    )
    return _event(time, 0, tag=value.tag, metadata=value.metadata)


def _event(time: int, step: int, file_version: str = "", **value: object) -> Event:
    """Return an event; ``time`` in Unix milliseconds."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    if file_version:
        return Event(wall_time=time / 1000, file_version=file_version)
    return Event(wall_time=time / 1000, step=step, summary=Summary(value=[Summary.Value(**value)]))


def _records(events: Iterable[Event]) -> bytes:
    """Return events as the file holds them, each with its length and checksums."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event.SerializeToString(deterministic=True))
    return buffer.getvalue()

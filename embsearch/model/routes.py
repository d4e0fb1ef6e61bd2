"""A model whose queries and documents take routes of their own (sentence-transformers' Router).

Each role has an encoder: the modules of its route, and those that all routes share. Two roles of
one route share the encoder. Shapes: N texts, B texts of a chunk, E the width of the vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from embsearch.data.batch import onto
from embsearch.data.dataset import Ids, TaskData, queries_of
from embsearch.data.tokenise import Tokens
from embsearch.errors import ModelError
from embsearch.model import pretrained
from embsearch.model.encoder import Encoder
from embsearch.model.folder_check import Part
from embsearch.model.prompts import NAMES, Role
from embsearch.model.text_tower import TextTower
from embsearch.model.tower import Inputs

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Router


NO_TOKENS = Tokens(np.empty(0, dtype=np.int32), np.zeros(1, dtype=np.int64))


@dataclass(frozen=True)
class RoutedTokens:
    """Tokens of every text by the tokenizer of its route."""

    routes: Sequence[Tokens]
    route_N: np.ndarray  # (N,) the place of a text's route in ``routes``
    place_N: np.ndarray  # (N,) the text's place in its route's tokens

    @cached_property
    def lengths(self) -> np.ndarray:
        """(N,) tokens of each text."""
        found = np.zeros(len(self.route_N), dtype=np.int64)
        for number, tokens in enumerate(self.routes):
            here = self.of(number)
            found[here] = tokens.lengths[self.place_N[here]]
        return found

    def of(self, number: int) -> Ids:
        """Return the ids of the texts of one route."""
        return np.flatnonzero(self.route_N == number).astype(np.int32)

    def part(self, number: int) -> Tokens:
        """Return the tokens of the texts of one route, end to end."""
        places = self.place_N[self.of(number)]
        rows = [self.routes[number].row(i) for i in places]
        offsets = np.cumsum([0, *map(len, rows)])
        ids = np.concatenate([NO_TOKENS.ids, *rows])
        return Tokens(ids, offsets)


class RoutedEncoder(TextTower):
    """The encoders of a model's routes. Texts are padded: kernels are for models of one route."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__(model)
        self._route_of = {role: _route_of(model, role) for role in (*NAMES, None)}
        self._names = list(dict.fromkeys(self._route_of.values()))
        self._encoders = [Encoder(_route(model, name)) for name in self._names]
        self.routes = nn.ModuleList(self._encoders)
        widths = {one.model.get_embedding_dimension() for one in self._encoders}
        if len(widths) > 1 and model.truncate_dim is None:
            raise ModelError(
                f"the routes {' and '.join(self._names)} of its Router give vectors of different "
                f"widths: {sorted(map(str, widths))}"
            )

    @property
    def packs(self) -> bool:
        """True where no route pads."""
        return all(encoder.packs for encoder in self._encoders)

    @property
    def left_out(self) -> int:
        """The number of parameters of the rows that were cut."""
        return sum(encoder.left_out for encoder in self._encoders)

    @property
    def hidden_size(self) -> int:
        """The width of the widest layers."""
        return max(encoder.hidden_size for encoder in self._encoders)

    def prepare(self, data: TaskData, cache: Path) -> RoutedTokens:
        self.take_roles(data)
        queries = queries_of(data)
        route_N = np.full(len(queries), self._number("document"))
        route_N[queries] = self._number("query")
        routes = [encoder.prepare(data, cache) for encoder in self._encoders]
        return RoutedTokens(routes, route_N, np.arange(len(queries)))

    def read(self, texts: Sequence[str], roles: Sequence[Role | None]) -> RoutedTokens:
        route_N = np.array([self._number(role) for role in roles])
        place_N = np.zeros(len(texts), dtype=np.int64)
        routes = []
        for number, encoder in enumerate(self._encoders):
            here = np.flatnonzero(route_N == number)
            place_N[here] = np.arange(len(here))
            own = [texts[i] for i in here.tolist()]
            routes.append(encoder.read(own, []) if own else NO_TOKENS)
        return RoutedTokens(routes, route_N, place_N)

    def _number(self, role: Role | None) -> int:
        return self._names.index(self._route_of[role])

    def parts(self, inputs: Inputs) -> Iterator[Part]:
        assert isinstance(inputs, RoutedTokens), "prepare and read make nothing else"
        for number, encoder in enumerate(self._encoders):
            ids = inputs.of(number)
            if len(ids):
                yield encoder.reader, inputs.part(number), ids

    def encode(
        self, inputs: RoutedTokens, ids: Ids, alone: bool = False, shared: object = None
    ) -> Tensor:
        route_B = inputs.route_N[ids]
        parts: list[Tensor] = []
        order: list[np.ndarray] = []
        for number, encoder in enumerate(self._encoders):
            here = np.flatnonzero(route_B == number)
            if len(here):
                places = inputs.place_N[ids[here]]
                parts.append(encoder.encode(inputs.routes[number], places))
                order.append(here)
        if len(parts) == 1:
            return parts[0]
        back = np.argsort(np.concatenate(order), kind="stable")
        return torch.cat(parts)[onto(parts[0].device, torch.from_numpy(back))]

    def restrict(self, inputs: RoutedTokens) -> None:
        """Cut the token tables of routes; one that two routes share stays whole."""
        tables = [encoder.table for encoder in self._encoders]
        for number, encoder in enumerate(self._encoders):
            alone = tables.count(encoder.table) == 1
            if alone and len(inputs.of(number)):
                encoder.restrict(inputs.part(number))

    def save(self, folder: Path) -> None:
        """Write the whole model, every token table uncut."""
        try:
            for encoder in self._encoders:
                encoder.uncut()
            pretrained.save(self.model, folder)
        finally:
            for encoder in self._encoders:
                encoder.recut()

    def activation_bytes(self, lengths: np.ndarray, held: int) -> float:
        return max(encoder.activation_bytes(lengths, held) for encoder in self._encoders)


def router_of(model: SentenceTransformer) -> Router | None:
    """Return the Router among the modules of ``model``; None where there is none."""
    from sentence_transformers.sentence_transformer.modules import Router

    return next((module for module in model if isinstance(module, Router)), None)


def _route_of(model: SentenceTransformer, role: Role | None) -> str:
    """Return the name of the route that texts of a role take. Raises ModelError."""
    router = router_of(model)
    assert router is not None, "texts.tower_of asks for no routes of others"
    try:
        found = router._resolve_route(task=role, modality="text")
    except ValueError as error:
        if role is None:  # SentenceTransformer.encode would refuse such a text
            return _route_of(model, "document")
        raise ModelError(
            f"its Router has no route for a {role}: {error}. Expected the routes query and "
            "document, as Router.for_query_document makes them"
        ) from None
    return str(found)


def _route(model: SentenceTransformer, name: str) -> SentenceTransformer:
    """Return the modules that texts of one route pass, as a model."""
    from sentence_transformers import SentenceTransformer

    router, modules = router_of(model), list[nn.Module]()
    for module in model:
        modules += [module] if module is not router else list(router.sub_modules[name].children())
    found = SentenceTransformer(modules=modules, device=str(model.device))
    found.prompts, found.truncate_dim = model.prompts, model.truncate_dim
    return found

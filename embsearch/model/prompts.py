"""Prompts: what stands before a query, and what before a document.

They are chosen as ``SentenceTransformer.encode_query`` and ``encode_document`` choose them. Some
families name theirs on their model page alone: FAMILIES proposes those, nothing uses them unasked.
No torch here: the coordinator reads this too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from embsearch.codec import JsonObject
from embsearch.config.schema import EncoderConfig, ModelConfig
from embsearch.errors import ModelError

Role = Literal["query", "document"]
CONFIG = "config_sentence_transformers.json"
NAMES: Mapping[Role, Sequence[str]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}
# A pattern of the model's name, and the prompts of its queries and documents
FAMILIES = (
    (r"\be5-[\w-]*instruct", "Instruct: Given a query, retrieve relevant documents\nQuery: ", ""),
    (r"\b(multilingual-)?e5-(small|base|large)", "query: ", "passage: "),
    (
        r"\bbge-(small|base|large)-en",
        "Represent this sentence for searching relevant passages: ",
        "",
    ),
    (r"\bbge-(small|base|large)-zh", "为这个句子生成表示以用于检索相关文章：", ""),
    (r"\bnomic-embed-text", "search_query: ", "search_document: "),
    (
        r"\bqwen3-embedding",
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
        "",
    ),
    (r"\bembeddinggemma", "task: search result | query: ", "title: none | text: "),
)


class Prompted(Protocol):
    """A SentenceTransformer, as far as its prompts go."""

    prompts: dict[str, str | None]
    default_prompt_name: str | None

    def modules(self) -> Iterable[object]:
        """Return all modules inside."""


def choose(prompts: Mapping[str, str | None], default: str | None, role: Role | None) -> str:
    """Return the prompt of a role; None: what stands before a text that has no role."""
    names = NAMES[role] if role else ()
    name = next((name for name in names if name in prompts), default)
    return prompts.get(name or "") or ""


def prompt_of(model: Prompted, role: Role | None) -> str:
    """Return what this model puts before a text of a role."""
    return choose(model.prompts, model.default_prompt_name, role)


def prompts_of(model: Prompted, roles: Sequence[str]) -> list[str]:
    """Return what this model puts before texts of each role, of sets of data too."""
    found: list[str] = []
    for name in roles:
        of_set = name in model.prompts and name not in NAMES
        found.append(model.prompts[name] or "" if of_set else prompt_of(model, _role_in(name)))
    return found


def take_one_role(model: Prompted) -> None:
    """Let texts of every role, and of none, stand behind the prompt of a query: all of a study's
    texts are queries.
    """
    query = prompt_of(model, "query")
    if any(prompt_of(model, role) != query for role in ("document", None)):
        model.prompts = {**model.prompts, "query": query, "document": query}
        model.default_prompt_name = "query"


def prompts_for(found: Prompted, config: ModelConfig) -> dict[str, str | None]:
    """Return the prompts of ``found`` with those of the config in their place.

    Raises ModelError where pooling leaves prompts out.
    """
    asked = {"query": config.prompts.query, "document": config.prompts.document}
    prompts = {**found.prompts, **{n: p for n, p in asked.items() if p is not None}}
    own = {role: choose(prompts, found.default_prompt_name, role) for role in NAMES}
    several = of_sets(config, own)
    leaves_out = any(not getattr(module, "include_prompt", True) for module in found.modules())
    if leaves_out and any((*own.values(), *several.values())):
        raise ModelError(
            f"model.path={config.path}: its pooling has include_prompt: false, which leaves the tokens of a "
            "prompt out; expected true. Train it without prompts: model.prompts.query='' model.prompts.document=''"
        )
    return prompts | several


def of_sets(config: ModelConfig, own: Mapping[Role, str]) -> dict[str, str]:
    """Return the prompts of sets of data; ``own`` are those of the model, where a set has none."""
    given = config.set_prompts if isinstance(config, EncoderConfig) else {}
    return {n: own[_role_in(n)] if said is None else said for n, said in given.items()}


def _role_in(name: str) -> Role:
    """Return the role in the name of a set's prompt: ``query`` of ``products_query``."""
    return "query" if name.endswith("query") else "document"


def used(config: ModelConfig) -> tuple[dict[Role, str], str]:
    """Return the prompts that a study with ``config`` uses, and a hint where others are usual."""
    kept = read_json(config.path, CONFIG)
    own = {"query": "", "document": "", **(kept.get("prompts") or {})}
    asked: dict[Role, str | None] = {
        "query": config.prompts.query,
        "document": config.prompts.document,
    }
    found: dict[Role, str] = {}
    for role, prompt in asked.items():
        default = kept.get("default_prompt_name")
        found[role] = choose(own, default, role) if prompt is None else prompt
    if any(found.values()) or any(prompt is not None for prompt in asked.values()):
        return found, ""
    return found, _hint(config.path, own)


def say_prompts(config: ModelConfig, one_role: bool = False) -> None:
    """Print which prompts a study uses, or which are usual; nothing where there are none.

    ``one_role``: every text is a query.
    """
    found, hint = used(config)
    if one_role:
        if found["query"]:
            print(f"prompts: {found['query']!r} before every text, that of a query")
    elif any(found.values()):
        print(f"prompts: queries {found['query']!r}, documents {found['document']!r}")
    if several := of_sets(config, found):
        said = (f"{name} {prompt!r}" for name, prompt in several.items())
        print(f"prompts of sets: {', '.join(said)}")
    elif hint:
        print(hint)


def _hint(path: str, own: Mapping[str, str | None]) -> str:
    usual = next((own[name] for name in ("passage", "corpus") if own.get(name)), None)
    pair = ("", usual) if usual else _of_family(path)
    if pair is None:
        return ""
    typed = " ".join(
        f"'model.prompts.{role}={_quoted(prompt or '')}'"
        for role, prompt in zip(NAMES, pair, strict=True)
    )
    where = "the folder keeps" if usual else "this model's page names"
    return f"prompts: none are used, and {where} some; to use them add {typed}"


def _of_family(path: str) -> tuple[str, str] | None:
    names = [path, str(read_json(path, "config.json").get("_name_or_path") or "")]
    for pattern, query, document in FAMILIES:
        if any(re.search(pattern, name.rstrip("/"), re.IGNORECASE) for name in names):
            return query, document
    return None


def _quoted(prompt: str) -> str:
    """Return a prompt as the command line takes it: Hydra's own quotes keep blanks and colons."""
    return json.dumps(prompt, ensure_ascii=False)


def read_json(path: str, name: str) -> JsonObject:
    """Return a JSON file of the model ``path``; empty where it is not on this machine."""
    file = Path(path).expanduser() / name
    if not file.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path):
        from huggingface_hub import try_to_load_from_cache

        file = Path(str(try_to_load_from_cache(path, name)))
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

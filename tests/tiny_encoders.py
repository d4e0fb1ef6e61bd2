"""Tiny random encoders of every kind, as folders, whose tokens are the words of given texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    LayerNorm,
    Normalize,
    Pooling,
    Router,
    StaticEmbedding,
    Transformer,
    WeightedLayerPooling,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertModel,
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    Gemma3TextConfig,
    Gemma3TextModel,
    LlamaConfig,
    LlamaModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

WIDTH = 32
LAYERS = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL = LAYERS | {"intermediate_size": 64}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]

Texts = Sequence[str]
Modules = list[Any]


def words_of(texts: Texts) -> list[str]:
    """Return every token that a tokenizer of these texts has; its number is its place."""
    return [*SPECIAL, *sorted({word for text in texts for word in text.split()})]


def raw_tokenizer(texts: Texts) -> Tokenizer:
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words_of(texts))}, "<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return raw


def word_tokenizer(texts: Texts, pad: bool = True, side: str = "right") -> PreTrainedTokenizerFast:
    raw = raw_tokenizer(texts)
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    more = {"pad_token": "<pad>"} if pad else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        model_max_length=64, padding_side=side, **more,
    )  # fmt: skip


def made(
    kind: Any,
    config: Any,
    tokenizer: PreTrainedTokenizerFast,
    place: Path,
    dtype: torch.dtype | None = None,
    shard: str = "5GB",
) -> Transformer:
    """Return a Transformer with weights larger than usual, so that texts get different vectors."""
    torch.manual_seed(0)
    model = kind(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0, 0.15)
    model.to(dtype or torch.float32).save_pretrained(place, max_shard_size=shard)
    tokenizer.save_pretrained(place)
    return Transformer(str(place))


def random_norm(width: int = WIDTH) -> LayerNorm:
    norm = LayerNorm(width)
    torch.manual_seed(1)
    nn.init.normal_(norm.norm.weight, 1, 0.8)
    nn.init.normal_(norm.norm.bias, 0, 0.5)
    return norm


def dense(a: int, b: int, seed: int = 2) -> Dense:
    torch.manual_seed(seed)
    return Dense(a, b, activation_function=nn.Tanh())


def rows(texts: Texts) -> int:
    return len(words_of(texts))


def bert(texts: Texts, place: Path, **more: Any) -> Transformer:
    config = BertConfig(vocab_size=rows(texts), max_position_embeddings=64, **SMALL, **IDS)
    return made(BertModel, config, word_tokenizer(texts), place, **more)


def static(texts: Texts, place: Path, width: int = WIDTH) -> StaticEmbedding:
    torch.manual_seed(4)
    return StaticEmbedding(raw_tokenizer(texts), embedding_dim=width)


def gemma(texts: Texts, place: Path) -> Modules:
    config = Gemma3TextConfig(
        vocab_size=rows(texts), num_key_value_heads=1, head_dim=16, max_position_embeddings=64, sliding_window=8,
        use_bidirectional_attention=True, layer_types=["sliding_attention", "full_attention"], **SMALL, **IDS,
    )  # fmt: skip
    base = made(Gemma3TextModel, config, word_tokenizer(texts), place)
    return [base, Pooling(WIDTH, "mean"), dense(WIDTH, 48), dense(48, WIDTH), Normalize()]


def bart(texts: Texts, place: Path) -> Modules:
    config = BartConfig(
        vocab_size=rows(texts), d_model=WIDTH, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
        scale_embedding=True, decoder_start_token_id=2, **IDS,
    )  # fmt: skip
    return [made(BartModel, config, word_tokenizer(texts), place), Pooling(WIDTH, "mean")]


def qwen(texts: Texts, place: Path, dtype: torch.dtype | None = None) -> Modules:
    config = Qwen3Config(
        vocab_size=rows(texts), num_key_value_heads=1, head_dim=16, max_position_embeddings=64, **SMALL, **IDS
    )  # fmt: skip
    base = made(Qwen3Model, config, word_tokenizer(texts, side="left"), place, dtype)
    return [base, Pooling(WIDTH, "lasttoken"), Normalize()]


def no_pad(texts: Texts, place: Path) -> Modules:
    config = LlamaConfig(
        vocab_size=rows(texts), num_key_value_heads=1, max_position_embeddings=64, **SMALL
    )
    base = made(LlamaModel, config, word_tokenizer(texts, pad=False), place)
    return [base, Pooling(WIDTH, "lasttoken"), Normalize()]


def roberta(texts: Texts, place: Path, kinds: Any = (RobertaConfig, RobertaModel)) -> Modules:
    config, model = kinds
    given = config(
        vocab_size=rows(texts), max_position_embeddings=34, type_vocab_size=1, **SMALL, **IDS
    )
    base = made(model, given, word_tokenizer(texts), place)
    return [base, Pooling(WIDTH, "mean"), Normalize()]


def modernbert(texts: Texts, place: Path) -> Modules:
    config = ModernBertConfig(
        vocab_size=rows(texts), max_position_embeddings=64, local_attention=8, cls_token_id=1, sep_token_id=2,
        **SMALL, **IDS,
    )  # fmt: skip
    return [
        made(ModernBertModel, config, word_tokenizer(texts), place),
        Pooling(WIDTH, "cls"),
        Normalize(),
    ]


def mpnet(texts: Texts, place: Path) -> Modules:
    config = MPNetConfig(vocab_size=rows(texts), max_position_embeddings=66, **SMALL, **IDS)
    # MPNet counts positions from padding token 1, whatever the config says
    return [made(MPNetModel, config, word_tokenizer(texts), place), Pooling(WIDTH, "mean")]


def distilbert(texts: Texts, place: Path) -> Modules:
    config = DistilBertConfig(
        vocab_size=rows(texts), dim=WIDTH, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64,
        pad_token_id=0,
    )  # fmt: skip
    return [made(DistilBertModel, config, word_tokenizer(texts), place), Pooling(WIDTH, "mean")]


def t5(texts: Texts, place: Path) -> Modules:
    config = T5Config(
        vocab_size=rows(texts), d_model=WIDTH, d_kv=16, d_ff=64, num_layers=2, num_heads=2, **IDS
    )
    base = made(T5EncoderModel, config, word_tokenizer(texts), place)
    return [base, Pooling(WIDTH, "mean"), dense(WIDTH, WIDTH), Normalize()]


def albert(texts: Texts, place: Path) -> Modules:
    config = AlbertConfig(
        vocab_size=rows(texts), embedding_size=16, max_position_embeddings=64, **SMALL, **IDS
    )
    return [made(AlbertModel, config, word_tokenizer(texts), place), Pooling(WIDTH, "mean")]


def deberta(texts: Texts, place: Path) -> Modules:
    config = DebertaV2Config(
        vocab_size=rows(texts), max_position_embeddings=64, relative_attention=True, pos_att_type="p2c|c2p",
        position_buckets=8, **SMALL, **IDS,
    )  # fmt: skip
    return [made(DebertaV2Model, config, word_tokenizer(texts), place), Pooling(WIDTH, "cls")]


def layer_weights(texts: Texts, place: Path) -> Modules:
    bert(texts, place)
    base = Transformer(str(place), config_kwargs={"output_hidden_states": True})
    weighted = WeightedLayerPooling(WIDTH, 2, 1)
    torch.manual_seed(5)
    nn.init.normal_(weighted.layer_weights, 1, 0.5)
    return [base, weighted, Pooling(WIDTH, "mean"), Normalize()]


def pipeline(texts: Texts, place: Path) -> Modules:
    tail = [random_norm(), Normalize(), dense(WIDTH, 24), Normalize()]
    return [bert(texts, place), Pooling(WIDTH, ("mean", "cls")), dense(2 * WIDTH, WIDTH), *tail]


def query_and_document(query: Modules, document: Modules, **more: Any) -> Router:
    return Router.for_query_document(query, document, **more)


def static_and_transformer(texts: Texts, place: Path) -> Modules:
    return [query_and_document([static(texts, place)], [bert(texts, place), Pooling(WIDTH)])]


def two_heads(texts: Texts, place: Path) -> Modules:
    heads = query_and_document([dense(WIDTH, 24, 6)], [dense(WIDTH, 24, 7)])
    return [bert(texts, place), Pooling(WIDTH, "mean"), heads, Normalize()]


def two_transformers(texts: Texts, place: Path) -> Modules:
    query = [bert(texts, place / "query"), Pooling(WIDTH, "mean")]
    document = [*roberta(texts, place / "document")[:2], dense(WIDTH, WIDTH)]
    return [query_and_document(query, document), Normalize()]


def shared_transformer(texts: Texts, place: Path) -> Modules:
    base, pooling = bert(texts, place), Pooling(WIDTH, "mean")
    return [
        query_and_document([base, pooling, dense(WIDTH, 24)], [base, pooling, dense(WIDTH, 24, 7)])
    ]


KINDS: dict[str, Callable[[Texts, Path], Modules]] = {
    "Dense, LayerNorm, Normalize": pipeline,
    "WeightedLayerPooling": layer_weights,
    "ModernBERT": modernbert,
    "Qwen3 (last token, padded on the left)": qwen,
    "EmbeddingGemma": gemma,
    "Llama without padding token": no_pad,
    "BART": bart,
    "RoBERTa": roberta,
    "XLM-R": lambda texts, place: roberta(texts, place, (XLMRobertaConfig, XLMRobertaModel)),
    "MPNet": mpnet,
    "DistilBERT": distilbert,
    "ALBERT": albert,
    "DeBERTa": deberta,
    "T5": t5,
    "sharded weights": lambda texts, place: [bert(texts, place, shard="20KB"), Pooling(WIDTH)],
    "decoder in 16 bits, padded on the left": lambda texts, place: qwen(texts, place, torch.float16),
    "static": lambda texts, place: [static(texts, place)],
    "static with Dense": lambda texts, place: [
        static(texts, place), random_norm(), dense(WIDTH, 24), Normalize(),
    ],
    "Router: static queries": static_and_transformer,
    "Router: two heads": two_heads,
    "Router: two transformers": two_transformers,
    "Router: one transformer": shared_transformer,
}  # fmt: skip


def save(name: str, texts: Texts, place: Path, **more: Any) -> Path:
    """Return a sentence-transformers folder of this kind. ``more``: of SentenceTransformer."""
    model = SentenceTransformer(modules=KINDS[name](texts, place / "made"), device="cpu", **more)
    model.save(str(place / "folder"), create_model_card=False)
    return place / "folder"


def save_model2vec(texts: Texts, place: Path, modules: bool = True, **more: torch.Tensor) -> Path:
    """Return a folder as model2vec writes it. ``modules``: with modules.json, as since 0.4.

    ``more``: the ``weights`` and ``mapping`` that it writes of quantised vocabularies.
    """
    folder = place / "folder"
    folder.mkdir(parents=True)
    raw_tokenizer(texts).save(str(folder / "tokenizer.json"))
    torch.manual_seed(4)
    count = int(more["mapping"].max()) + 1 if "mapping" in more else rows(texts)
    save_file({"embeddings": torch.randn(count, WIDTH), **more}, folder / "model.safetensors")
    config = {
        "model_type": "model2vec", "architectures": ["StaticModel"], "tokenizer_name": "tiny",
        "apply_pca": WIDTH, "apply_zipf": True, "hidden_dim": WIDTH, "seq_length": 1000000, "normalize": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    home = "sentence_transformers.models"
    listed = [
        {"idx": 0, "name": "0", "path": ".", "type": f"{home}.StaticEmbedding"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": f"{home}.Normalize"},
    ]
    if modules:
        (folder / "modules.json").write_text(json.dumps(listed))
    return folder

"""Decoder assembly: layers in order, embedding, final norm and head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planner.frontend.config_reader import ConfigReader
from planner.ir.model_graph import Layer, Linear, Op, Small


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """What a family makes of a config; names, dtypes and formats are added by the loader."""

    vocab_size: int
    hidden_size: int
    tied: bool
    max_position: int
    layers: tuple[Layer, ...]
    embedding: tuple[Op, ...]
    head: tuple[Op, ...]
    extra: tuple[Op, ...] = ()
    mtp_layers: tuple[Layer, ...] = ()


def norm(name: str, dim: int, *, bias: bool = False) -> Small:
    """Return a norm over `dim` (RMS norm; with `bias`, a layer norm)."""
    return Small(name=name, num_params=2 * dim if bias else dim)


def stack(num_layers: int, build: Callable[[int], Layer]) -> tuple[Layer, ...]:
    """Return the layers 0 .. num_layers - 1; equal ones are the same object."""
    seen: dict[Layer, Layer] = {}
    return tuple(seen.setdefault(layer, layer) for layer in map(build, range(num_layers)))


def table(name: str, rows: int, dim: int) -> Linear:
    """Return a vocabulary table: looked up, split by rows."""
    return Linear(
        name=name,
        in_features=rows,
        out_features=dim,
        shard="vocab",
        slot="embedding",
        quantised=False,
        per_token=0.0,
    )


def tied(config: ConfigReader, default: bool) -> bool:
    """Return whether the head uses the embedding's weights; what holds when not stated is the family's."""
    return config.flag("tie_word_embeddings", default)


def lm_head(hidden: int, vocab: int, *, is_tied: bool, bias: bool = False) -> Linear:
    """Return the output map; a tied one uses the embedding's weights."""
    return Linear(
        name="lm_head",
        in_features=hidden,
        out_features=vocab,
        shard="vocab",
        slot="head",
        bias=bias,
        quantised=False,
        tied=is_tied,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalLm:
    """Embedding, layers, final norm and head, the frame that nearly all families share."""

    config: ConfigReader
    tied: bool
    norm_bias: bool = False
    has_norm: bool = True
    head_bias: bool = False
    embedding_extra: tuple[Op, ...] = ()
    head_extra: tuple[Op, ...] = ()

    def parts(
        self, layers: tuple[Layer, ...], *, extra: tuple[Op, ...] = (), mtp_layers: tuple[Layer, ...] = ()
    ) -> ModelParts:
        """Return the assembled model."""
        hidden, vocab = self.config.count("hidden_size"), self.config.count("vocab_size")
        final = (norm("norm", hidden, bias=self.norm_bias),) if self.has_norm else ()
        return ModelParts(
            vocab_size=vocab,
            hidden_size=hidden,
            tied=self.tied,
            max_position=self.config.size("max_position_embeddings", 0),
            layers=layers,
            embedding=(table("embed_tokens", vocab, hidden), *self.embedding_extra),
            head=(*final, *self.head_extra, lm_head(hidden, vocab, is_tied=self.tied, bias=self.head_bias)),
            extra=extra,
            mtp_layers=mtp_layers,
        )


def mtp_layer(hidden: int, block: Layer) -> Layer:
    """Return a multi-token prediction layer: two norms, a map of both inputs to one, a block, a norm.

    Embedding and head are the model's own. Source: DeepSeek-V3 report, section 2.2.
    """
    joined = Linear(
        name="eh_proj",
        in_features=2 * hidden,
        out_features=hidden,
        shard="replicated",
        slot="other",
        quantised=False,
    )
    ops = (norm("enorm", hidden), norm("hnorm", hidden), joined, *block.ops, norm("shared_head.norm", hidden))
    return Layer(kind=f"mtp+{block.kind}", ops=ops)


def same_window(config: ConfigReader, num_layers: int, *, key: str = "sliding_window") -> tuple[int, ...]:
    """Return one window for all layers where the config states one, else none."""
    return (config.optional_count(key) or 0,) * num_layers


def layer_windows(config: ConfigReader, num_layers: int, default: Sequence[bool]) -> tuple[int, ...]:
    """Return the window of each layer in tokens (0: full) from `layer_types`, else from `default`.

    Raises
    ------
    InputError
        If `layer_types` is not one known name per layer or the window is missing.
    """
    types = config.strings("layer_types")
    if types is None:
        slides = tuple(default)
    elif len(types) != num_layers:
        raise config.refuse("layer_types", f"lists {len(types)} layers, the model has {num_layers}")
    else:
        slides = tuple(slides_by_type(config, name) for name in types)
    if not any(slides):
        return (0,) * num_layers
    window = config.count("sliding_window")
    return tuple(window if slide else 0 for slide in slides)


def slides_by_type(config: ConfigReader, name: str) -> bool:
    """Return whether a layer type keeps only a window.

    Raises
    ------
    InputError
        If the type is neither full nor sliding attention.
    """
    if name == "full_attention":
        return False
    if name == "sliding_attention":
        return True
    raise config.refuse("layer_types", f"has the unknown type {name!r:.60}")

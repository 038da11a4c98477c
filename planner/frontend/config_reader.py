"""Typed, checked reading of a Hugging Face style config: every value is untrusted.

Files of all ages are in the wild, so a key is looked up under its other spellings too. A value
of the wrong type, out of range or stated twice differently is refused with its dotted key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from planner.errors import InputError, nearest

MAX_COUNT = 2**31 - 1
MAX_LAYERS = 4096
MAX_LIST = 65536

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "hidden_size": ("n_embd", "n_embed", "d_model", "model_dim"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("num_kv_heads",),
    "max_position_embeddings": ("n_positions", "max_seq_len", "seq_length"),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size"),
    "num_experts_per_tok": ("experts_per_token", "moe_top_k", "num_experts_per_token", "top_k_experts"),
    "num_experts": ("num_local_experts", "n_routed_experts"),
    "num_local_experts": ("num_experts", "n_routed_experts"),
    "n_routed_experts": ("num_experts", "num_local_experts"),
    "num_nextn_predict_layers": ("num_mtp_layers", "mtp_num_hidden_layers", "mtp_num_layers"),
    "moe_intermediate_size": ("expert_intermediate_size",),
    "conv_kernel": ("d_conv", "mamba_d_conv", "conv_kernel_size"),
    "state_size": ("d_state", "mamba_d_state"),
}

_LOOSE = frozenset({"max_position_embeddings"})
"""Keys whose spellings may differ in one file without changing the model; the first one counts."""


@dataclass(slots=True, kw_only=True)
class ConfigReader:
    """Reads one JSON object.

    `defaults_used` collects what the file left to its family's default, `remarks` what the model
    built from it leaves out.
    """

    values: Mapping[str, object]
    file: str
    path: str = ""
    defaults_used: list[str] = field(default_factory=list[str])
    remarks: list[str] = field(default_factory=list[str])

    def has(self, key: str) -> bool:
        """Return whether the key, under any spelling, is stated and not null."""
        return self._find(key) is not None

    def count(
        self, key: str, default: int | None = None, *, minimum: int = 1, maximum: int = MAX_COUNT
    ) -> int:
        """Return an integer between `minimum` and `maximum`.

        Raises
        ------
        InputError
            If the value is missing without a default, no integer, or out of range.
        """
        found = self._find(key)
        if found is None:
            if default is None:
                raise self._missing(key)
            self._note_default(key, default)
            return default
        name, value = found
        return self._checked(name, value, minimum, maximum)

    def size(self, key: str, default: int | None = None) -> int:
        """Return an integer that may be zero."""
        return self.count(key, default, minimum=0)

    def layers(self, key: str = "num_hidden_layers") -> int:
        """Return a number of layers."""
        return self.count(key, maximum=MAX_LAYERS)

    def optional_count(self, key: str) -> int | None:
        """Return a positive integer, or None where the key is absent or null."""
        return self.count(key) if self.has(key) else None

    def number(self, key: str, *, maximum: float = 1e6) -> float:
        """Return a positive finite number."""
        found = self._find(key)
        if found is None:
            raise self._missing(key)
        name, value = found
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= maximum:
            raise self._wrong(name, value, f"a number above 0 and up to {maximum:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean."""
        found = self._find(key)
        if found is None:
            self._note_default(key, default)
            return default
        name, value = found
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def text(self, key: str, default: str) -> str:
        """Return a string of at most 4096 characters."""
        found = self._find(key)
        if found is None:
            return default
        name, value = found
        if not isinstance(value, str) or len(value) > 4096:
            raise self._wrong(name, value, "a string")
        return value

    def section(self, key: str) -> ConfigReader:
        """Return a nested object.

        Raises
        ------
        InputError
            If it is missing or no object.
        """
        found = self._find(key)
        if found is None:
            raise self._missing(key)
        name, value = found
        if not isinstance(value, dict):
            raise self._wrong(name, value, "an object")
        return self._nested(cast("Mapping[str, object]", value), self._dotted(name) + ".")

    def filled(self, defaults: Mapping[str, int]) -> ConfigReader:
        """Return a reader in which absent keys have a family's defaults; each one is recorded."""
        absent = {key: value for key, value in defaults.items() if not self.has(key)}
        for key, value in absent.items():
            self._note_default(key, value)
        return self._nested({**self.values, **absent}, self.path)

    def counts(self, key: str, *, minimum: int = 0) -> tuple[int, ...] | None:
        """Return a list of integers, or None where absent."""
        items = self._list(key)
        if items is None:
            return None
        return tuple(self._checked(f"{key}[{i}]", v, minimum, MAX_COUNT) for i, v in enumerate(items))

    def strings(self, key: str) -> tuple[str, ...] | None:
        """Return a list of strings, or None where absent."""
        items = self._list(key)
        if items is None:
            return None
        for i, item in enumerate(items):
            if not isinstance(item, str):
                raise self._wrong(f"{key}[{i}]", item, "a string")
        return tuple(cast("list[str]", items))

    def num_items(self, key: str, default: int) -> int:
        """Return the length of a list, whatever its items are."""
        items = self._list(key)
        return default if items is None else len(items)

    def sections(self, key: str) -> tuple[ConfigReader, ...] | None:
        """Return a list of objects, or None where absent."""
        items = self._list(key)
        if items is None:
            return None
        nested: list[ConfigReader] = []
        for i, item in enumerate(items):
            if not isinstance(item, dict):
                raise self._wrong(f"{key}[{i}]", item, "an object")
            nested.append(self._nested(cast("Mapping[str, object]", item), f"{self._dotted(key)}[{i}]."))
        return tuple(nested)

    def remark(self, text: str) -> None:
        """Record something that the model built from this config leaves out."""
        if text not in self.remarks:
            self.remarks.append(text)

    def refuse(self, key: str, message: str, *, allowed: str | None = None) -> InputError:
        """Return the error for a key whose value makes no sense; the caller raises it."""
        found = self._find(key)
        value = found[1] if found is not None else ...
        return InputError(message, file=self.file, key=self._dotted(key), value=value, allowed=allowed)

    def divided(self, key: str, by: str) -> int:
        """Return one count divided by another, refused unless exact."""
        whole, parts = self.count(key), self.count(by)
        if whole % parts:
            raise self.refuse(key, f"is not a multiple of {by} ({parts})")
        return whole // parts

    def _nested(self, values: Mapping[str, object], path: str) -> ConfigReader:
        return ConfigReader(
            values=values,
            file=self.file,
            path=path,
            defaults_used=self.defaults_used,
            remarks=self.remarks,
        )

    def _find(self, key: str) -> tuple[str, object] | None:
        stated = [
            (name, self.values[name])
            for name in (key, *SPELLINGS.get(key, ()))
            if self.values.get(name) is not None
        ]
        if not stated:
            return None
        name, value = stated[0]
        for other, other_value in stated[1:]:
            if other_value != value and key not in _LOOSE:
                raise InputError(
                    f"is stated twice: {name} is {value!r:.40} but {other} is {other_value!r:.40}",
                    file=self.file,
                    key=self._dotted(name),
                    hint="Remove one of the two spellings.",
                )
        return name, value

    def _list(self, key: str) -> list[object] | None:
        found = self._find(key)
        if found is None:
            return None
        name, value = found
        items = cast("list[object]", value) if isinstance(value, list) else None
        if items is None or len(items) > MAX_LIST:
            raise self._wrong(name, found[1], f"a list of at most {MAX_LIST} items")
        return items

    def _checked(self, name: str, value: object, minimum: int, maximum: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(name, value, "an integer")
        if not minimum <= value <= maximum:
            raise self._wrong(name, value, f"an integer from {minimum} to {maximum}")
        return value

    def _dotted(self, name: str) -> str:
        return f"{self.path}{name}"

    def _note_default(self, key: str, default: object) -> None:
        text = f"{self._dotted(key)} = {str(default).lower() if isinstance(default, bool) else default}"
        if text not in self.defaults_used:
            self.defaults_used.append(text)

    def _missing(self, key: str) -> InputError:
        close = nearest(key, [str(k) for k in list(self.values)[:1000]])
        hint = f"Did you mean this key for {close!r}?" if close else None
        return InputError("is missing", file=self.file, key=self._dotted(key), hint=hint)

    def _wrong(self, name: str, value: object, allowed: str) -> InputError:
        return InputError(
            "has a value that cannot be", file=self.file, key=self._dotted(name), value=value, allowed=allowed
        )

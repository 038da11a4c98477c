"""Makes a tiny Llama that speaks scripts: real attention, cache and sampling, known text.

    python make_model.py FOLDER

Attention and MLP add nothing to the residual stream (their last projections are zero), and the output head
maps each token to its successor, so the text is a chain of tokens that starts where the chat template says:
at the script whose marker stands in the last message, else at a chain of words that never ends.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<|pad|>", "<|bos|>", "<|unk|>", "<|turn|>", "<|end|>"]
END = 4
WORDS = [f" w{i:03d}" for i in range(100)]
LINES = [[f"{i}. look(", *(f" a{i}{j:02d}" for j in range(18)), f" end{i})\n"] for i in (1, 2, 3)]
SCRIPTS = {
    "plan": [piece for line in LINES for piece in line],
    "unsure": ["I am", " unsure"],
    "sure": ["It is", " forty-two"],
}
TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}"
    "<|turn|>assistant\n"
    + "".join(
        ("{% if" if i == 0 else "{% elif") + f" '[[{name}]]' in messages[-1]['content'] %}}<|{name}|>"
        for i, name in enumerate(SCRIPTS)
    )
    + "{% else %}<|words|>{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Characters, and each piece of a script as one token."""
    chars = [chr(c) for c in range(32, 127)] + ["\n"]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *chars])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<|unk|>"))
    made.decoder = decoders.Fuse()
    starts = [f"<|{name}|>" for name in (*SCRIPTS, "words")]
    pieces = [p for script in SCRIPTS.values() for p in script]
    made.add_tokens([AddedToken(t, normalized=False) for t in (*starts, *pieces, *WORDS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<|bos|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def successors(number: dict[str, int]) -> dict[int, int]:
    """Return what follows each token of a script."""
    found: dict[int, int] = {}
    for name, pieces in SCRIPTS.items():
        chain = [number[f"<|{name}|>"], *(number[p] for p in pieces), END]
        found.update(pairwise(chain))
    ring = [number[w] for w in WORDS]
    found[number["<|words|>"]] = ring[0]
    found.update(zip(ring, [*ring[1:], ring[0]], strict=True))
    return found


def model(number: dict[str, int]) -> LlamaForCausalLM:
    """Return the model that follows the chains."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(number),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=8192,
        bos_token_id=1,
        eos_token_id=END,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    made = LlamaForCausalLM(config)
    with torch.no_grad():
        directions = torch.nn.functional.normalize(torch.randn(len(number), config.hidden_size), dim=1)
        made.model.embed_tokens.weight.copy_(directions)
        for layer in made.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        made.lm_head.weight.copy_(_head(number, directions))
    return made.to(torch.float32)


def _head(number: dict[str, int], directions: torch.Tensor) -> torch.Tensor:
    """Return the output head that scores the successor of each token of a script 8 and everything else 0.

    There are fewer such tokens than dimensions, so scores are exact (the last norm makes them 16 times that).
    """
    following = successors(number)
    tokens = list(following)
    scores = torch.zeros(len(number), len(tokens))
    for column, token in enumerate(tokens):
        scores[following[token], column] = 8.0
    return scores @ torch.linalg.pinv(directions[tokens].T)


def main(folder: Path) -> None:
    """Write tokenizer and model."""
    words = tokenizer()
    model(words.get_vocab()).save_pretrained(folder)
    words.save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

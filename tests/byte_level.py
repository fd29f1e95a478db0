"""Pico backbones over a byte-level tokenizer, which a GGUF file can hold."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM

from reccocktail.backbone import Backbone
from tests.pico import FAMILIES, SHAPE, SPECIAL, WORDS, fast


def byte_tokenizer(steps=None):
    """A byte-level BPE of 400 tokens; `steps` cut the text before it."""
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if steps else byte_level
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL[:4],
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3 + ["12 12 12"], trainer)
    return fast(tokenizer)


def byte_backbone(family="llama", tokenizer=None, **settings):
    """A pico model over the byte-level tokenizer, with rows to spare in its embedding."""
    tokenizer = tokenizer or byte_tokenizer()
    config_class, extra = FAMILIES[family]
    config = config_class(vocab_size=len(tokenizer) + 8, **SHAPE | extra | settings)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.data.normal_(std=0.2)
            elif name.endswith("bias"):
                weight.data.normal_(std=0.1)
    return Backbone.from_memory(model, tokenizer, f"byte-{family}")

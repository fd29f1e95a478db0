"""Pico backbones for tests: real architectures of the hub's families, made in-process in a blink.

Hidden size 32, two layers, a word-level tokenizer over a few dozen words with a chat template,
fixed seeds.
"""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from reccocktail.backbone import Backbone

HIDDEN = 32
LAYERS = 2
SPECIAL = ["<unk>", "<pad>", "<s>", "</s>", "<user>", "<assistant>", "<system>"]
WORDS = (
    "a an the of and or for with in on to is you user item next like history candidates choose "
    "most likely first "
    "recommend helpful assistant system answer titles order red green blue black white small "
    "large old new dark "
    "bright apple bread milk cheese water tea coffee rice soup salt sugar film night day city "
    "river sea road king "
    "queen love war star moon sun house garden song game book box cup pen lamp shoe shirt cream "
    "soap oil brush kit "
    "story part one two three four five six seven eight nine ten 0 1 2 3 4 5 6 7 8 9 . , : ; ( ) "
    "| - ? ! ' \" & /"
).split()
LETTERS = "b c d e f g h i j k l m n o p q r s t u v w x y z".split()  # "a" is a word
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} "
    "</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
SHAPE = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "tie_word_embeddings": True,
}
FAMILIES: dict[str, tuple[type[PreTrainedConfig], dict[str, int]]] = {
    "llama": (LlamaConfig, {}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 8}),
    "gemma3": (Gemma3TextConfig, {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64}),
    "mistral": (MistralConfig, {"sliding_window": 64}),
    "gpt2": (GPT2Config, {}),  # its layers are no `nn.Linear`
}


def pico_tokenizer(more: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Word-level tokenizer of `SPECIAL + WORDS` and `more`; ignores case, the rest is `<unk>`."""
    vocabulary = {word: place for place, word in enumerate([*SPECIAL, *WORDS, *more])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(True),
        ]
    )
    return fast(tokenizer, additional_special_tokens=SPECIAL[4:])


def fast(tokenizer: Tokenizer, **more: object) -> PreTrainedTokenizerFast:
    """A tokenizer as transformers has it, with the first of `SPECIAL` and the chat template."""
    names = ("unk_token", "pad_token", "bos_token", "eos_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=CHAT_TEMPLATE,
        **dict(zip(names, SPECIAL[:4], strict=True)),
        **more,
    )


def pico_model(family: str = "llama", seed: int = 0, more: int = 0) -> torch.nn.Module:
    """A random model of the family; same seed, same weights. The global seed is left alone.

    Its vocabulary is that of the tokenizer and `more` words.
    """
    config_class, extra = FAMILIES[family]
    config = config_class(vocab_size=len(SPECIAL + WORDS) + more, **SHAPE, **extra)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        # The usual 0.02 leaves so narrow a model nearly uniform over tokens; wider weights make it
        # react.
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "norm" not in name:
                weight.data.normal_(std=0.2)
    return model


def pico_backbone(family: str = "llama", seed: int = 0, more: Sequence[str] = ()) -> Backbone:
    """A pico backbone in memory, frozen and in eval mode, as `load_backbone` would give it."""
    model = pico_model(family, seed, len(more))
    return Backbone.from_memory(model, pico_tokenizer(more), f"pico-{family}-{seed}")

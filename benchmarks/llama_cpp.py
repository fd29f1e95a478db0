"""llama.cpp itself (`xllamacpp`), for what it reads out of an exported GGUF file."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reccocktail.evaluation.metrics import FloatArray
from reccocktail.progress import track
from reccocktail.prompting.encoding import TokenIds

AT_ONCE = 32  # inputs in one request


class LlamaCpp:
    """Hidden states of the last token, by llama.cpp on one core."""

    def __init__(self, file: Path, longest: int, *, unit: bool = True) -> None:
        """Load a GGUF file for inputs of at most `longest` tokens; `unit` states have length 1."""
        import xllamacpp as x

        params = x.CommonParams()
        params.model.path = str(file)
        params.embedding, params.embd_normalize = True, 2 if unit else -1
        params.pooling_type = x.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
        params.n_ctx = params.n_batch = params.n_ubatch = longest
        params.n_parallel, params.n_gpu_layers, params.warmup = 1, 0, False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.cache_type_k = params.cache_type_v = x.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.verbosity = -1
        self._server = x.Server(params)

    def vectors(self, inputs: Sequence[TokenIds] | Sequence[str], label: str) -> FloatArray:
        """(inputs, hidden), of token ids or of texts."""
        found = []
        for start in track(range(0, len(inputs), AT_ONCE), label):
            some = inputs[start : start + AT_ONCE]
            answer = self._server.handle_embeddings({"input": list(some)})
            answer = json.loads(answer) if isinstance(answer, str) else answer
            ordered = sorted(answer["data"], key=lambda row: row["index"])
            found += [row["embedding"] for row in ordered]
        return np.array(found, dtype=np.float64)

"""One backbone, many sets of weights: a model for each adapter that shares what the adapter leaves.

A served adapter is merged into layers of its own; every other weight is the backbone's own tensor.
Two domains therefore never share a weight that differs between them, nothing has to be switched
between requests, and inference costs what the bare backbone costs.
"""

import threading
from collections import OrderedDict

from torch import Tensor
from transformers import PreTrainedModel

from reccocktail.backbone import Backbone
from reccocktail.precision import round_products
from reccocktail.training.adapter import Lora
from reccocktail.training.model import with_update


class Models:
    """Models with merged updates, the ones used last kept within a budget of memory.

    A model that left the cache lives on as long as somebody computes with it.
    """

    def __init__(self, backbone: Backbone, budget: int) -> None:
        """Start with the bare backbone; `budget` is in bytes of copied weights."""
        self._backbone = backbone
        self._budget = budget
        self._models: OrderedDict[str, tuple[PreTrainedModel, int]] = OrderedDict()
        self._lock = threading.RLock()

    def of(self, sha256: str, lora: Lora) -> PreTrainedModel:
        """The model of an update, whose hash is its name; merged now if it is not at hand.

        It computes in the backbone's precision.
        """
        with self._lock:
            if sha256 in self._models:
                self._models.move_to_end(sha256)
                return self._models[sha256][0]
        model = with_update(self._backbone.model, lora)
        round_products(model, self._backbone.autocast)
        with self._lock:
            self._models[sha256] = model, _copied_bytes(model, lora)
            self._models.move_to_end(sha256)
            while len(self._models) > 1 and self.bytes > self._budget:
                self._models.popitem(last=False)
        return model

    @property
    def bytes(self) -> int:
        """Bytes of the copied weights that are held."""
        with self._lock:
            return sum(size for _, size in self._models.values())


def _copied_bytes(model: PreTrainedModel, lora: Lora) -> int:
    named = dict(model.named_modules())
    weights = [named[name].weight for name in lora]
    return sum(w.numel() * w.element_size() for w in weights if isinstance(w, Tensor))

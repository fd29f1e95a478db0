"""A backbone that runs on LoRA tensors from outside: gradients reach what these are made of."""

from typing import Any

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.func import functional_call

from reccocktail.ranking.base import first_layers
from reccocktail.training.adapter import Lora
from reccocktail.training.model import base_model


class FunctionalModel:
    """A backbone whose LoRA tensors come from outside: gradients reach the coefficients."""

    def __init__(self, peft_model: PeftModel, lora: Lora) -> None:
        """Run `peft_model`, which has a LoRA of `lora`'s shapes, on the tensors of `lora`."""
        self._peft = peft_model
        model = base_model(peft_model)
        decoder = model.get_decoder()  # type: ignore[no-untyped-call]
        assert isinstance(decoder, nn.Module)
        self._model, self._decoder = model, decoder
        self.config: Any = model.config
        self.forward: Any = model.forward  # for its signature; calls go through this object
        known = {module: name for name, module in decoder.named_modules()}
        named = dict(model.named_modules())
        self._tensors: dict[str, Tensor] = {}
        self._decoder_tensors: dict[str, Tensor] = {}
        for module, (a, b, scaling) in lora.items():
            layer = named[module]
            assert isinstance(layer, LoraLayer)
            # The layer multiplies by its own scaling; what is asked for is `scaling`.
            tensors = {"A": a, "B": b * (scaling / layer.scaling["default"])}
            for factor, tensor in tensors.items():
                self._tensors[f"{module}.lora_{factor}.default.weight"] = tensor
                if layer in known:
                    name = f"{known[layer]}.lora_{factor}.default.weight"
                    self._decoder_tensors[name] = tensor

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        """The whole model on the given tensors."""
        return functional_call(self._model, self._tensors, args, inputs)

    def get_decoder(self) -> "_FunctionalDecoder":
        """Decoder that runs on the given tensors."""
        return _FunctionalDecoder(self._decoder, self._decoder_tensors)

    def parameters(self) -> Any:
        """The backbone's parameters."""
        return self._peft.parameters()


class _FunctionalDecoder:
    """A decoder, or its lowest layers, with LoRA tensors from outside."""

    def __init__(self, decoder: nn.Module, tensors: dict[str, Tensor]) -> None:
        self._decoder = decoder
        self._tensors = tensors

    def first_layers(self, depth: int) -> "_FunctionalDecoder":
        decoder = first_layers(self._decoder, depth)
        kept = {name for name, _ in decoder.named_parameters()}
        return _FunctionalDecoder(decoder, {n: t for n, t in self._tensors.items() if n in kept})

    def get_input_embeddings(self) -> Any:
        return self._decoder.get_input_embeddings()  # type: ignore[operator]

    def __call__(self, **inputs: Any) -> Any:
        return functional_call(self._decoder, self._tensors, (), inputs)

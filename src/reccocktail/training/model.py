"""An adapter on its backbone: fresh and trainable, attached through PEFT, or merged into it."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from reccocktail.backbone import Backbone, quiet_transformers
from reccocktail.errors import AdapterError
from reccocktail.precision import in_precision
from reccocktail.progress import say
from reccocktail.quantization import is_packed
from reccocktail.ranking import build
from reccocktail.ranking.base import Ranker, layers_of
from reccocktail.ranking.dense import DenseRanker
from reccocktail.recipe import Recipe
from reccocktail.storage import sha256_json
from reccocktail.training.adapter import (
    PREFIX,
    Adapter,
    Card,
    Factors,
    Lora,
    lora_config,
    lora_sha256,
)


def ranker_of(card: Card, backbone: Backbone) -> Ranker:
    """The ranker that an adapter was trained for.

    Raises:
        AdapterError: its prompt template or its readout is another one by now.
        RecipeError, BackboneError: see `ranking.build`.
    """
    ranker = build(backbone, card.recipe, card.wording)
    if ranker.template_sha256 != card.template_sha256:
        raise AdapterError(
            "The prompt template is not the one that the adapter was trained with; "
            "give its former wording back, or train again."
        )
    if ranker.readout_sha256 != card.readout_sha256:
        raise AdapterError(
            f"The readout of {backbone.name} is not the one that the adapter was trained with; "
            "use the version of RecCocktail that it was trained with, or train again."
        )
    return ranker


def check_compatible(adapters: Sequence[Adapter], backbone: Backbone) -> None:
    """Refuse adapters that do not belong together or not to the backbone.

    Raises:
        AdapterError: names the adapter and what differs.
    """
    if not adapters:
        raise AdapterError("There is no adapter; give at least one.")
    readings = []
    for adapter in adapters:
        backbone.fingerprint.require_match(adapter.card.backbone, adapter.name)
        temperature = {"score temperature": _score_temperature(adapter, backbone)}
        readings.append(adapter.card.reading() | temperature)
        for what, value in readings[0].items():
            if value != readings[-1][what]:
                raise AdapterError(
                    f"'{adapters[0].name}' and '{adapter.name}' differ in their {what}; "
                    "train both with the same recipe."
                )


def _score_temperature(adapter: Adapter, backbone: Backbone) -> float | None:
    """What an adapter's scores are divided by, whether its recipe says it or leaves it open."""
    recipe = adapter.card.recipe
    ranker = build(backbone, recipe) if recipe.ranker == "dense" else None
    return ranker.temperature if isinstance(ranker, DenseRanker) else None


def new_peft_model(backbone: Backbone, recipe: Recipe, initial: Adapter | None = None) -> PeftModel:
    """Put a LoRA to be trained on the backbone.

    Args:
        backbone: it is changed in place; `unload` of the returned model gives it back.
        recipe: shape of the LoRA.
        initial: start from its tensors; None starts afresh, A drawn with the recipe's own seed and
            B zero.

    Raises:
        AdapterError: no linear layer that is run has the recipe's names, or `initial` was made on
            another backbone or has another shape than the recipe's; the backbone is as it was.
        RecipeError: the backbone's layers cannot be counted, which the recipe's depth takes.
    """
    if initial is not None:
        backbone.fingerprint.require_match(initial.card.backbone, initial.name)
    target = recipe.lora.target_modules
    config = LoraConfig(
        r=recipe.lora.rank,
        lora_alpha=recipe.lora.alpha,  # type: ignore[arg-type]
        lora_dropout=recipe.lora.dropout,
        target_modules=target if isinstance(target, str) else list(target),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(recipe.lora.init_seed)
        try:
            # Layers above the depth are not run and carry no LoRA.
            with _without_layers_above(backbone.model, recipe.dense.depth):
                peft_model = _as_peft(get_peft_model(backbone.model, config))
        except ValueError as error:
            reason = str(error)
            if "not found" in reason:
                reason = f"no layer of {backbone.name} is named so"
            raise AdapterError(
                f"lora.target_modules cannot be {target} ({reason}); change it."
            ) from error
    try:
        _require_usable(peft_model, recipe)
        if initial is not None:
            if _shape(initial.lora) != _shape(tensors_of(peft_model)):
                raise AdapterError(
                    f"The LoRA of '{initial.name}' differs from the recipe's in rank, alpha or "
                    "modules; train with the recipe that it was made with."
                )
            _set_tensors(peft_model, initial.lora)
    except AdapterError:
        peft_model.unload()
        backbone.model.requires_grad_(False).train(False)
        raise
    return peft_model


def _require_usable(peft_model: PeftModel, recipe: Recipe) -> None:
    """Refuse before the training what could not be kept, or would not be trained, after it.

    Raises:
        AdapterError: a layer with a LoRA is not linear, or the recipe's ranker does not run it.
    """
    kept = tensors_of(peft_model)
    names = {name.partition(".lora_")[0] for name, p in peft_model.named_parameters()
             if p.requires_grad}  # fmt: skip
    if others := sorted(names - {f"{PREFIX}{name}" for name in kept}):
        name = others[0].removeprefix(PREFIX)
        raise AdapterError(
            f"lora.target_modules names '{name}', which is no linear layer; leave it out."
        )
    model = base_model(peft_model)
    check_shapes(model, kept)
    if recipe.ranker == "dense":
        run = set(model.get_decoder().modules())  # type: ignore[no-untyped-call]
        modules = dict(model.named_modules())
        if idle := [name for name in kept if modules[name] not in run]:
            raise AdapterError(
                f"lora.target_modules names '{idle[0]}', which the dense ranker does not run; "
                "leave it out."
            )


@contextmanager
def _without_layers_above(model: PreTrainedModel, depth: int | None) -> Iterator[None]:
    if depth is None:
        yield
        return
    decoder = model.get_decoder()  # type: ignore[no-untyped-call]
    whole = layers_of(decoder)
    try:
        decoder.layers = whole[:depth]
        yield
    finally:
        decoder.layers = whole


def attach(model: PreTrainedModel, lora: Lora) -> PeftModel:
    """Put LoRA tensors on a backbone as a stock PEFT model, in eval mode."""
    check_shapes(model, lora)
    with quiet_transformers():
        peft_model = _as_peft(get_peft_model(model, lora_config(lora)))
    _set_tensors(peft_model, lora)
    return peft_model.eval()


def _set_tensors(peft_model: PeftModel, lora: Lora) -> None:
    """Copy LoRA tensors into a PEFT model of their shapes."""
    state = {}
    for module, (a, b, _) in lora.items():
        state[f"{PREFIX}{module}.lora_A.weight"] = a
        state[f"{PREFIX}{module}.lora_B.weight"] = b
    set_peft_model_state_dict(peft_model, state)


def _shape(lora: Lora) -> dict[str, tuple[object, ...]]:
    """Shapes and scaling of each module; a scaling that went through a file may lose a last bit."""
    return {name: (f.a.shape, f.b.shape, round(f.scaling, 6)) for name, f in lora.items()}


def base_model(peft_model: PeftModel) -> PreTrainedModel:
    """The language model inside a PEFT model; its linear layers carry the LoRA."""
    model = peft_model.get_base_model()
    assert isinstance(model, PreTrainedModel)
    return model


def tensors_of(peft_model: PeftModel) -> Lora:
    """Copy the LoRA tensors out of a PEFT model."""
    lora: dict[str, Factors] = {}
    for name, module in base_model(peft_model).named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            lora[name] = Factors(
                module.lora_A["default"].weight.detach().float().cpu().clone(),
                module.lora_B["default"].weight.detach().float().cpu().clone(),
                float(module.scaling["default"]),
            )
    return dict(sorted(lora.items()))


def check_shapes(model: nn.Module, lora: Lora) -> None:
    """Refuse LoRA tensors that do not fit the model's linear layers.

    Raises:
        AdapterError: a module is missing or has another shape.
    """
    modules = dict(model.named_modules())
    for name, (a, b, _) in lora.items():
        layer = modules.get(name)
        # A packed weight has another shape than its layer.
        sizes = ("nf", "nx") if isinstance(layer, Conv1D) else ("out_features", "in_features")
        if [getattr(layer, size, None) for size in sizes] != [b.shape[0], a.shape[1]]:
            raise AdapterError(
                f"The adapter's module '{name}' does not fit this backbone; "
                "use the backbone it was trained on."
            )


@contextmanager
def merged(model: PreTrainedModel, lora: Lora | None) -> Iterator[PreTrainedModel]:
    """Add an update into the backbone's weights for the time of the block: no cost at inference.

    The former weights come back bit for bit. `None` leaves the backbone bare. A weight that another
    module shares (a head tied to the embeddings) is changed for the module that carries the LoRA
    alone, as PEFT does.
    """
    lora = lora or {}
    check_shapes(model, lora)
    modules = dict(model.named_modules())
    if any(is_packed(modules[name]) for name in lora):
        raise AdapterError(
            "An update cannot be merged into packed four-bit weights; load the backbone with its "
            "weights written out (packed=False)."
        )
    saved = {name: modules[name].weight for name in lora}
    try:
        for name, factors in lora.items():
            add_update(modules[name], factors)
        yield model
    finally:
        for name, weight in saved.items():
            modules[name].weight = weight


@torch.no_grad()
def add_update(layer: nn.Module, factors: Factors) -> None:
    """Give a linear layer a weight of its own with the update in it; the former one stays as it is.

    Args:
        layer: linear, with weight (out, in), or GPT-2's `Conv1D` with weight (in, out).
        factors: B (out, r), A (r, in) and their scaling.
    """
    a, b, scaling = factors
    weight = layer.weight
    assert isinstance(weight, Tensor)
    update = scaling * (b.to(weight.device) @ a.to(weight.device))
    if isinstance(layer, Conv1D):
        update = update.T
    layer.weight = nn.Parameter(weight + update.to(weight.dtype), requires_grad=False)


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A model of its own modules on the same tensors: what is put in their place changes nobody."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def with_update(model: PreTrainedModel, lora: Lora) -> PreTrainedModel:
    """A twin of the model with the update in its weights.

    Raises:
        AdapterError: the update does not fit the model.
    """
    check_shapes(model, lora)
    found = twin(model)
    for name, factors in lora.items():
        add_update(found.get_submodule(name), factors)
    return found


@contextmanager
def scoring(backbone: Backbone, lora: Lora | None) -> Iterator[PreTrainedModel]:
    """The model that scores are made with: an update merged in, in the backbone's precision.

    Under `model_sha256` belong the numbers of this model. See `merged` and `in_precision`.
    """
    with merged(backbone.model, lora) as model, in_precision(model, backbone.autocast):
        yield model


def _as_peft(model: Any) -> PeftModel:
    assert isinstance(model, PeftModel)
    return model


def model_sha256(backbone: Backbone, lora: Lora | None) -> str:
    """Identity of a model's numbers: backbone's weights, update, device type, dtype, precision."""
    update = lora_sha256(lora) if lora else None
    place = [backbone.device.type, str(backbone.model.dtype)]
    rounded = [backbone.quantization] if backbone.quantization else []
    precision = [backbone.precision] if backbone.autocast else []
    return sha256_json([backbone.fingerprint.sha256, update, *place, *rounded, *precision])


def note_quantization(adapters: Sequence[Adapter], backbone: Backbone) -> None:
    """Say of each adapter that was trained on otherwise rounded weights than the backbone's.

    It fits all the same: the fingerprint is that of the weights before rounding.
    """
    ours = backbone.quantization or "full precision"
    for adapter in adapters:
        theirs = adapter.card.recipe.quantization or "full precision"
        if theirs != ours:
            say(
                f"'{adapter.name}' was trained on weights in {theirs} and is used on weights in "
                f"{ours}; its scores differ from those it was trained to give."
            )

"""Mix a cocktail: adapters and unlabelled users become one stock PEFT adapter (paper, Eq. 6-9)."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from reccocktail.backbone import Backbone
from reccocktail.data.domain import Domain
from reccocktail.errors import AdapterError
from reccocktail.mixing.arithmetic import merge
from reccocktail.mixing.batch_loss import BatchLoss
from reccocktail.mixing.entropy import collapse_reason
from reccocktail.mixing.measure import Mixer, MixSettings
from reccocktail.mixing.objectives import MeasuredMix
from reccocktail.mixing.search import Groups, gradient_search, line_search
from reccocktail.mixing.sheet import COCKTAIL_FILE, SearchResult, cocktail_sheet
from reccocktail.precision import in_precision
from reccocktail.progress import say
from reccocktail.schema import Objective, Scenario
from reccocktail.training.adapter import (
    CARD_FILE,
    Adapter,
    Card,
    DataCard,
    note_cocktail,
    require_adapter_dir,
)
from reccocktail.training.card import adapter_readme

_LARGEST = 1000  # of given coefficients: far beyond use, and no float32 overflows


def check_request(
    adapters: Sequence[Adapter],
    out: Path,
    settings: MixSettings,
    coefficients: Sequence[float] | None = None,
) -> None:
    """Refuse what `mix` would, as far as it can be told without the backbone.

    Raises:
        AdapterError: fewer than two adapters, settings or coefficients out of range, or `out` holds
            something else than a cocktail.
    """
    require_adapter_dir(out)
    if (out / CARD_FILE).exists() and not (out / COCKTAIL_FILE).exists():
        raise AdapterError(
            f"{out} holds a trained adapter, which the cocktail would replace; "
            "choose another folder."
        )
    settings.check(len(adapters), searched=coefficients is None)
    if coefficients is not None:
        usable = all(0 <= c <= _LARGEST for c in coefficients) and any(c > 0 for c in coefficients)
        if len(coefficients) != len(adapters) or not usable:
            raise AdapterError(
                f"Give {len(adapters)} coefficients, one for each adapter, from 0 to {_LARGEST} "
                "and not all 0."
            )


def mix(
    adapters: Sequence[Adapter],
    backbone: Backbone,
    domain: Domain,
    scenario: Scenario,
    out: Path,
    settings: MixSettings | None = None,
    coefficients: Sequence[float] | None = None,
) -> Adapter:
    """Merge adapters with the coefficients that minimise the objective; write the cocktail `out`.

    Args:
        adapters: two or more; by custom the base spirit first (lambda_1), the ingredient second.
        backbone: the model they were trained on.
        domain: the target domain; its test users lend their histories and candidates, never their
            targets.
        scenario: whose users to adapt to.
        out: adapter folder to write, with `cocktail.json`.
        settings: see `MixSettings`.
        coefficients: (adapters,), each in [0, 1000] and not all 0: fixed ones in place of a search
            (the plain average, say), still measured. They need not sum to 1.

    Returns:
        The cocktail, named after the folder `out`.

    Raises:
        AdapterError: fewer than two adapters, ones that do not fit together or to the backbone,
            settings or coefficients out of range, or `out` holds something else than a cocktail.
        DataError: too few test users to adapt to, or no validation users where the objective needs
            them.
    """
    started = time.monotonic()
    settings = settings or MixSettings()
    check_request(adapters, out, settings, coefficients)
    for adapter in adapters:
        note_cocktail(adapter)
    if coefficients is None:
        _note_trained_beside(adapters)
    mixer = Mixer(adapters, backbone, domain, scenario, settings, searched=coefficients is None)
    settings = mixer.settings  # nothing is left open there
    loras = [adapter.lora for adapter in adapters]
    groups = Groups.build(loras, settings.granularity)
    if coefficients is not None:
        found = _given(mixer, groups, coefficients)
    elif settings.by_gradient(len(adapters)):
        found = _by_gradient(mixer, groups)
    else:
        found = _by_line(mixer)
    lora, lost_energy = merge(
        loras, groups.spread(found.coefficients), settings.method, settings.options
    )
    cocktail = Adapter(out.name, lora, _card(mixer))
    sheet = cocktail_sheet(mixer, groups, found, cocktail, lost_energy)
    words = found.in_words(adapters)
    body = f"\nCoefficients: {words}\n\n{sheet['agreement']}\n"
    cocktail.save(out, adapter_readme(out.name, cocktail.card, body), {COCKTAIL_FILE: sheet})
    say(f"{out.name}: {words} in {time.monotonic() - started:.0f} s. {sheet['agreement']}")
    return cocktail


def _note_trained_beside(adapters: Sequence[Adapter]) -> None:
    """Warn that a search cannot find (1, 1), which adapters of `train --beside` were made for."""
    for adapter in adapters:
        if adapter.card.beside_sha256:
            say(
                f"'{adapter.name}' was trained with another adapter whole beside it, and a search "
                "gives each a share only; give --coefficients 1 --coefficients 1 to have both "
                "whole, as in the training."
            )


def _given(mixer: Mixer, groups: Groups, coefficients: Sequence[float]) -> SearchResult:
    """Coefficients from outside, measured; they may leave the simplex."""
    one = torch.tensor([list(coefficients)], dtype=torch.float32)
    chosen = one.expand(len(groups.names), -1)
    point = mixer.measure(
        mixer.merged_lora(chosen, groups), list(coefficients), "Measuring the given mix"
    )
    return SearchResult(chosen, [point], point, fixed=True)


def _by_line(mixer: Mixer) -> SearchResult:
    """One pair of coefficients, lambda and 1 - lambda (Eq. 9 on a line), diluted if asked."""
    settings = mixer.settings
    _, seen = line_search(
        lambda first: mixer.measure_pair(first).value(settings.objective),
        settings.grid,
        settings.refinements,
    )
    curve = [mixer.measure_pair(first) for first in sorted(seen)]
    curve += [
        mixer.measure_pair(first, share) for share in settings.dilutions for first in settings.grid
    ]
    ends = mixer.measure_adapters()
    for measured in curve:
        measured.compare_with_adapters(ends)
    point, collapse = _guarded(curve, settings.objective)
    return SearchResult(torch.tensor([point.coefficients]), curve, point, collapse=collapse)


def _by_gradient(mixer: Mixer, groups: Groups) -> SearchResult:
    """Coefficients of each layer or module, or more than two adapters (Eq. 9 by gradient)."""
    settings, backbone = mixer.settings, mixer.backbone
    ends = mixer.measure_adapters()
    with in_precision(backbone.model, backbone.autocast):
        chosen, losses = gradient_search(
            backbone.model,
            [adapter.lora for adapter in mixer.adapters],
            groups,
            settings.method,
            BatchLoss(mixer, [end.scores for end in ends if end.scores is not None]),
            mixer.descent,
            settings.options,
        )
    found = mixer.measure(mixer.merged_lora(chosen, groups), None, "Measuring the cocktail")
    curve = [*ends, found]
    for measured in curve:
        measured.compare_with_adapters(ends)
    point, collapse = _guarded(curve, settings.objective, prefer=found)
    # The published search knows no guard.
    if settings.search == "published":
        point = found
    elif point.coefficients is not None:
        chosen = torch.tensor([point.coefficients]).expand(len(groups.names), -1)
    return SearchResult(chosen, curve, point, collapse=collapse, losses=losses)


def _guarded(
    curve: Sequence[MeasuredMix], objective: Objective, prefer: MeasuredMix | None = None
) -> tuple[MeasuredMix, str | None]:
    """The point to take, and what is wrong with the first choice, if it is not that one."""
    ends = [p for p in curve if p.coefficients is not None and max(p.coefficients) == 1.0]
    reference = min((p.mutual_information for p in ends), default=0.0)
    order = sorted(curve, key=lambda p: (p.value(objective), str(p.coefficients)))
    if prefer is not None:
        order = [prefer, *(p for p in order if p is not prefer)]
    first_reason: str | None = None
    for point in order:
        reason = collapse_reason(
            point.candidate_entropy, point.candidates, point.mutual_information, reference
        )
        if reason is None:
            return point, first_reason
        first_reason = first_reason or f"lambda {point.lambdas} looks collapsed: {reason}"
    return order[0], "every mix looks collapsed: " + str(first_reason)


def _card(mixer: Mixer) -> Card:
    """The cocktail's card: read as its adapters are, adapted to one domain."""
    first = mixer.adapters[0].card
    return Card(
        role="cocktail",
        backbone=mixer.backbone.fingerprint,
        recipe=first.recipe.model_copy(update={"quantization": mixer.backbone.quantization}),
        template_sha256=first.template_sha256,
        wording=first.wording,
        readout_sha256=first.readout_sha256,
        data=(DataCard.of(mixer.domain),),
    )

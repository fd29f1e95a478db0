"""The objective of a few users: what it is, and that its temperature is everybody's."""

import numpy as np
import pytest
import torch

from reccocktail.mixing.batch_loss import BatchLoss
from reccocktail.mixing.entropy import fit_temperature
from reccocktail.mixing.measure import Mixer, MixSettings
from reccocktail.ranking.base import entropy_of
from reccocktail.ranking.scoring import positive_columns
from reccocktail.training.model import merged
from tests.adapters import random_adapter
from tests.domains import taste_domain
from tests.pico import pico_backbone

AT_ONCE = 8  # users of a batch of the dense ranker


@pytest.fixture(scope="module")
def backbone():
    return pico_backbone()


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return taste_domain(tmp_path_factory.mktemp("d"), users=90)


@pytest.fixture(scope="module")
def pair(backbone, domain):
    return [
        random_adapter(backbone, domain, "a", "base", seed=1),
        random_adapter(backbone, domain, "b", seed=2),
    ]


def mixer_of(pair, backbone, domain, objective):
    settings = MixSettings(granularity="layer", objective=objective, users=20, validation_users=30)
    return Mixer(pair, backbone, domain, "warm", settings)


def scores_of(mixer, table):
    point = mixer.ranker.ranking_batch(
        mixer.catalogue.histories(table), mixer.catalogue.candidates(table), mixer.catalogue.tokens
    )
    return mixer.ranker.scores(mixer.backbone.model, point).detach()


@pytest.mark.parametrize("number", [0, 1, 5])
def test_the_temperature_is_that_of_all_labelled_users(pair, backbone, domain, number):
    """Against the plain computation; the model stands still, so nothing is out of date."""
    found = {}
    with merged(backbone.model, pair[0].lora):
        for objective in ("validation", "calibrated"):
            mixer = mixer_of(pair, backbone, domain, objective)
            loss = BatchLoss(mixer, [])
            for earlier in range(number):
                loss(backbone.model, earlier)
            found[objective] = float(loss(backbone.model, number))
        labelled, others = scores_of(mixer, mixer.labelled), scores_of(mixer, mixer.unlabelled)
    positive = torch.from_numpy(positive_columns(mixer.labelled))
    assert len(positive) > 2 * AT_ONCE
    temperature = fit_temperature(labelled.double(), positive)
    rows = [(number * AT_ONCE + i) % len(positive) for i in range(AT_ONCE)]
    expected = torch.nn.functional.cross_entropy(labelled[rows] / temperature, positive[rows])
    assert found["validation"] == pytest.approx(float(expected), abs=1e-3)
    rows = [(number * AT_ONCE + i) % len(others) for i in range(AT_ONCE)]
    expected = entropy_of(others[rows] / temperature).mean()
    assert found["calibrated"] == pytest.approx(float(expected), abs=1e-3)
    # Eight users alone would ask for another temperature.
    few = fit_temperature(labelled[:AT_ONCE].double(), positive[:AT_ONCE])
    assert abs(np.log(few / temperature)) > 0.05


def test_the_temperature_goes_along_with_the_model(pair, backbone, domain):
    """All users are read once under one adapter, then batch by batch under another."""
    mixer = mixer_of(pair, backbone, domain, "validation")
    positive = torch.from_numpy(positive_columns(mixer.labelled))
    last = (len(positive) - 1) // AT_ONCE
    loss = BatchLoss(mixer, [])
    with merged(backbone.model, pair[0].lora):
        loss(backbone.model, 0)
        before = fit_temperature(scores_of(mixer, mixer.labelled).double(), positive)
    with merged(backbone.model, pair[1].lora):
        found = [float(loss(backbone.model, number)) for number in range(last + 1)]
        labelled = scores_of(mixer, mixer.labelled)
    temperature = fit_temperature(labelled.double(), positive)
    assert abs(np.log(before / temperature)) > 0.01
    rows = [(last * AT_ONCE + i) % len(positive) for i in range(AT_ONCE)]
    expected = torch.nn.functional.cross_entropy(labelled[rows] / temperature, positive[rows])
    assert found[-1] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("objective", ["divergence", "distillation"])
def test_adapters_are_compared_on_the_users_of_the_batch(pair, backbone, domain, objective):
    mixer = mixer_of(pair, backbone, domain, objective)
    with merged(backbone.model, pair[0].lora):
        own = scores_of(mixer, mixer.unlabelled)
        loss = BatchLoss(mixer, [own])
        found = [float(loss(backbone.model, number)) for number in range(3)]
        assert found == pytest.approx([0] * 3, abs=1e-6)
        other = BatchLoss(mixer, [own.roll(1, dims=0)])
        assert float(other(backbone.model, 0)) > 1e-4

"""The training loop: it learns, repeats itself, goes on where it stopped, leaves no trace."""

import errno
import json
import os
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import SafetensorError
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from reccocktail.errors import AdapterError, RecipeError, RunError
from reccocktail.evaluation.metrics import per_user, ranks
from reccocktail.ranking.dense import DenseRanker
from reccocktail.ranking.scoring import Catalogue, ItemVectors, encode, positive_columns
from reccocktail.recipe import LoraSettings, PromptSettings, Recipe, TrainingSettings
from reccocktail.training import log, loop, trainer
from reccocktail.training.adapter import Adapter, Factors
from reccocktail.training.bank import ItemBank
from reccocktail.training.log import read_log
from reccocktail.training.loop import RankerModule, restore
from reccocktail.training.model import merged
from reccocktail.training.run_folder import starting_point, write_seconds
from reccocktail.training.schedule import Clock, Length, cosine_with_warmup, usual_steps
from reccocktail.training.trainer import train
from tests.domains import taste_domain
from tests.helpers import TickingTime, one_sentence
from tests.pico import pico_backbone

STEPS = 8


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return taste_domain(tmp_path_factory.mktemp("domains"), users=80)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return taste_domain(tmp_path_factory.mktemp("domains"), name="other", tastes=2, users=40)


def recipe_with(**training):
    values = {
        "learning_rate": 5e-3,
        "targets_per_batch": 32,
        "validation_users": 6,
        "validations": 2,
        "bank": 10,
    }
    return Recipe(
        backbone="pico",
        prompt=PromptSettings(max_history=4),
        lora=LoraSettings(rank=2, alpha=4.0, dropout=0.1),
        training=TrainingSettings(**values | training),
    )


def losses(out):
    rows = read_log(out.with_name(out.name + ".training"))
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def learning_rates(out):
    rows = read_log(out.with_name(out.name + ".training"))
    return {row["step"]: row["learning_rate"] for row in rows if "loss" in row}


def run(domains, out, *, steps=STEPS, backbone=None, resume=False, recipe=None, **more):
    backbone = backbone or pico_backbone()
    recipe = recipe or recipe_with()
    return train(
        "ingredient", domains, backbone, recipe, out, Length(steps=steps), resume=resume, **more
    )


def stopping(steps, error=KeyboardInterrupt):
    """A batch's loss, which raises after a number of calls."""
    loss = RankerModule.forward
    left = [steps]

    def counting(self, **batch):
        if left[0] == 0:
            raise error
        left[0] -= 1
        return loss(self, **batch)

    return counting


@pytest.fixture
def stop_after(monkeypatch):
    """Interrupt the run after a number of steps of this process, with a checkpoint after each."""

    def arm(steps, error=KeyboardInterrupt):
        loss = RankerModule.forward
        monkeypatch.setattr(RankerModule, "forward", stopping(steps, error))
        return lambda: monkeypatch.setattr(RankerModule, "forward", loss)

    return arm


EVERY_STEP = {"checkpoint_minutes": 1e-9}


@pytest.fixture(scope="module")
def whole(domain, tmp_path_factory):
    """An uninterrupted run, its folder, and its adapter; no checkpoint is written."""
    out = tmp_path_factory.mktemp("whole") / "mine"
    return out, run([domain], out, recipe=recipe_with(**EVERY_STEP))


def same_bytes(one, two):
    assert sorted(f.name for f in one.iterdir()) == sorted(f.name for f in two.iterdir())
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes(), file.name


def snapshot(backbone):
    return {name: value.clone() for name, value in backbone.model.state_dict().items()}


def assert_as_it_was(backbone, before):
    now = backbone.model.state_dict()
    assert list(now) == list(before)
    assert all(torch.equal(now[name], before[name]) for name in before)
    assert not any("lora" in name for name, _ in backbone.model.named_modules())
    assert not any(weight.requires_grad for weight in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())
    assert not hasattr(backbone.model, "peft_config")


# -- it learns --------------------------------------------------------------------------------


def quality(backbone, domain, recipe, lora):
    """Mean NDCG@10 over the warm and the cold test, 30 candidates each."""
    ranker = DenseRanker(backbone.tokenizer, recipe.prompt, recipe.dense)
    catalogue = Catalogue.of(domain, ranker)
    tables = [domain.rows("test_warm"), domain.rows("test_cold")]
    with merged(backbone.model, lora) as model:
        vectors = encode(model, ItemVectors(catalogue), catalogue, tables, "Test")
    return [
        float(
            per_user(ranks(v.scores(ranker, catalogue.candidates(rows)), positive_columns(rows)))[
                "ndcg@10"
            ].mean()
        )
        for rows, v in zip(tables, vectors, strict=True)
    ]


def test_it_learns_the_known_answer(tmp_path, capsys):
    domain = taste_domain(tmp_path, users=160)
    backbone, recipe = pico_backbone(), recipe_with(targets_per_batch=64, validation_users=0)
    recipe = recipe.model_copy(update={"lora": LoraSettings(rank=8, alpha=16.0)})
    before = snapshot(backbone)
    adapter = run([domain], tmp_path / "mine", steps=100, backbone=backbone, recipe=recipe)
    assert_as_it_was(backbone, before)
    assert capsys.readouterr().out == ""  # the progress goes to standard error
    curve = list(losses(tmp_path / "mine").values())
    assert len(curve) == 100
    assert np.mean(curve[-5:]) < np.mean(curve[:5]) / 2
    bare = quality(backbone, domain, recipe, None)
    trained = quality(backbone, domain, recipe, adapter.lora)
    assert trained[0] > bare[0] + 0.15
    assert trained[1] > bare[1] + 0.1  # a cold item has a title, and that is enough


# -- what it writes ---------------------------------------------------------------------------


def test_what_a_run_leaves_behind(whole, domain):
    out, adapter = whole
    loaded = Adapter.load(out)
    assert loaded.sha256 == adapter.sha256
    assert loaded.card == adapter.card
    card = loaded.card
    assert (card.role, card.steps) == ("ingredient", STEPS)
    assert card.data[0].sha256 == domain.sha256
    assert card.data[0].users == domain.train().height
    assert "mine" in (out / "README.md").read_text()
    run_folder = out.with_name("mine.training")
    assert not list(run_folder.glob("checkpoint-*"))
    record = json.loads((run_folder / "run.json").read_text())
    assert record["finished"] is True and record["seconds"] > 0


def test_the_log_holds_every_step_and_the_validations(whole):
    out, _ = whole
    rows = read_log(out.with_name("mine.training"))
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == list(range(1, STEPS + 1))
    validated = [row for row in rows if "ndcg@10" in row]
    assert [row["step"] for row in validated] == [STEPS // 2, STEPS]
    assert all(0 <= row["ndcg@10/tastes"] <= 1 for row in validated)
    assert all(np.isfinite(row["grad_norm"]) for row in rows if "loss" in row)
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)


def test_a_tracker_is_told_what_the_log_is_told(whole, domain, tmp_path, monkeypatch):
    told = {}

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            told.setdefault(state.global_step, {}).update(logs)

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Tracker)
    monkeypatch.setattr(log.importlib.util, "find_spec", lambda name: object())
    out = tmp_path / "mine"
    run([domain], out, recipe=recipe_with(**EVERY_STEP), report_to=["wandb"])
    rows = read_log(out.with_name("mine.training"))
    assert {row["step"] for row in rows} <= told.keys()
    for row in rows:
        for name in row.keys() - {"step", "seconds"}:
            assert told[row["step"]][name] == pytest.approx(row[name], rel=1e-6), name
    assert any("loss" not in row for row in rows), "nothing was validated"
    same_bytes(out, whole[0])  # and it changes nothing


@pytest.mark.parametrize(
    ("name", "message"),
    [("wandb", r"wandb is not installed; pip install 'reccocktail\[tracking\]'"),
     ("diary", "no tracker 'diary'; report to mlflow or wandb")],
)  # fmt: skip
def test_a_tracker_that_is_not_there_is_said(domain, tmp_path, monkeypatch, name, message):
    monkeypatch.setattr(log.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=message) as error:
        run([domain], tmp_path / "a", report_to=[name])
    one_sentence(error.value)
    assert not list(tmp_path.iterdir())


def test_gradients_are_clipped_before_the_step(domain, tmp_path):
    """A tiny norm with plain warm-up moves the weights less than a large one would."""
    free = run([domain], tmp_path / "free", steps=3)
    bound = run([domain], tmp_path / "bound", steps=3, recipe=recipe_with(max_gradient_norm=1e-12))
    name = next(iter(free.lora))
    assert bound.lora[name].b.abs().max() < 0.1 * free.lora[name].b.abs().max()


# -- it repeats itself ------------------------------------------------------------------------


def test_the_same_command_gives_the_same_files(whole, domain, tmp_path):
    out, _ = whole
    torch.manual_seed(12345)  # what ran before in this process does not matter
    run([domain], tmp_path / "mine", recipe=recipe_with(**EVERY_STEP))
    same_bytes(out, tmp_path / "mine")
    assert losses(out) == losses(tmp_path / "mine")


def test_batches_that_workers_make_are_the_same(whole, domain, tmp_path, monkeypatch):
    def with_workers(*given):
        found = loop.arguments(*given)
        assert found.dataloader_num_workers == 0  # on a CPU
        found.dataloader_num_workers = loop.GPU_WORKERS
        return found

    monkeypatch.setattr(trainer, "arguments", with_workers)
    out, adapter = whole
    again = run([domain], tmp_path / "mine", recipe=recipe_with(**EVERY_STEP))
    assert again.sha256 == adapter.sha256
    assert losses(tmp_path / "mine") == losses(out)


def test_another_seed_gives_another_adapter(whole, domain, tmp_path):
    _, adapter = whole
    changed = run([domain], tmp_path / "mine", recipe=recipe_with(seed=1, **EVERY_STEP))
    assert changed.sha256 != adapter.sha256


def test_a_base_spirit_of_two_domains(domain, other, tmp_path):
    recipe = recipe_with(domain_temperature=0.0, validations=1)
    adapter = train(
        "base", [domain, other], pico_backbone(), recipe, tmp_path / "base", Length(steps=4)
    )
    assert [d.name for d in adapter.card.data] == ["tastes", "other"]
    last = [row for row in read_log(tmp_path / "base.training") if "ndcg@10" in row][-1]
    assert last["ndcg@10"] == pytest.approx((last["ndcg@10/tastes"] + last["ndcg@10/other"]) / 2)


def test_items_left_out_change_what_is_learnt(whole, domain, tmp_path):
    _, adapter = whole
    gone = {"tastes": frozenset(domain.train()["history"][0].to_list())}
    changed = run([domain], tmp_path / "mine", recipe=recipe_with(**EVERY_STEP), exclude=gone)
    assert changed.sha256 != adapter.sha256


def test_what_one_domain_leaves_out_is_not_taken_for_its_namesakes(domain, tmp_path):
    namesake = taste_domain(tmp_path / "n", users=40)
    assert namesake.name == domain.name
    items = {domain.name: frozenset(domain.item_ids[:1])}
    with pytest.raises(RunError, match=f"Two domains are named '{domain.name}'") as error:
        train("base", [domain, namesake], pico_backbone(), recipe_with(), tmp_path / "a",
              Length(steps=1), exclude=items)  # fmt: skip
    one_sentence(error.value)


def test_each_step_takes_the_rate_of_its_own_place(whole):
    out, _ = whole
    settings = recipe_with().training
    expected = {
        step: settings.learning_rate * cosine_with_warmup((step - 1) / STEPS, settings.warmup)
        for step in range(1, STEPS + 1)
    }
    assert learning_rates(out) == pytest.approx(expected)


# -- it goes on where it stopped --------------------------------------------------------------


@pytest.mark.parametrize("done", [1, 5])
def test_a_resumed_run_ends_as_an_uninterrupted_one(whole, domain, tmp_path, stop_after, done):
    out, _ = whole
    mine, recipe = tmp_path / "mine", recipe_with(**EVERY_STEP)
    restore = stop_after(done)
    with pytest.raises(KeyboardInterrupt):
        run([domain], mine, recipe=recipe)
    restore()
    assert not mine.exists()
    torch.manual_seed(999)
    run([domain], mine, recipe=recipe, resume=True)
    same_bytes(out, mine)
    assert losses(mine) == losses(out)
    assert learning_rates(mine) == learning_rates(out)
    validated = [
        [(row["step"], row["ndcg@10"]) for row in read_log(place) if "ndcg@10" in row]
        for place in (tmp_path / "mine.training", out.with_name("mine.training"))
    ]
    assert validated[0] == validated[1]


def test_a_run_can_be_resumed_more_than_once(whole, domain, tmp_path, stop_after):
    out, _ = whole
    mine, recipe = tmp_path / "mine", recipe_with(**EVERY_STEP)
    for steps in (2, 0):  # an interruption before any new step loses nothing either
        restore = stop_after(steps)
        with pytest.raises(KeyboardInterrupt):
            run([domain], mine, recipe=recipe, resume=True)
        restore()
    run([domain], mine, recipe=recipe, resume=True)
    same_bytes(out, mine)
    assert losses(mine) == losses(out)


def test_an_adapter_of_other_data_is_named_before_it_is_replaced(
    whole, domain, other, tmp_path, capsys
):
    run([domain], tmp_path / "mine", steps=1)
    run([domain], tmp_path / "mine", steps=1)  # the same again needs no word
    assert "is replaced at the end" not in capsys.readouterr().err
    run([other], tmp_path / "mine", steps=1)
    said = " ".join(capsys.readouterr().err.split())
    assert f"holds the ingredient adapter of {domain.name}; it is replaced at the end" in said


def test_a_finished_run_does_not_pass_another_adapter_off_as_its_own(whole, domain, tmp_path):
    out, adapter = whole
    mine, recipe = tmp_path / "mine", recipe_with(**EVERY_STEP)
    shutil.copytree(out, mine)
    shutil.copytree(out.with_name("mine.training"), tmp_path / "mine.training")
    assert run([domain], mine, recipe=recipe, resume=True).sha256 == adapter.sha256
    other = {name: Factors(f.a, 2 * f.b, f.scaling) for name, f in adapter.lora.items()}
    shutil.rmtree(mine)
    replace(adapter, lora=other).save(mine, "")
    with pytest.raises(RunError, match="holds another adapter") as error:
        run([domain], mine, recipe=recipe, resume=True)
    one_sentence(error.value)


def test_a_checkpoint_that_was_cut_short_is_passed_over(whole, domain, tmp_path, stop_after):
    """A machine that dies while it saves leaves half a checkpoint; the one before it counts."""
    out, _ = whole
    mine, recipe = tmp_path / "mine", recipe_with(**EVERY_STEP)
    restore = stop_after(5)
    with pytest.raises(KeyboardInterrupt):
        run([domain], mine, recipe=recipe)
    restore()
    checkpoints = sorted((tmp_path / "mine.training").glob("checkpoint-*"))
    assert [path.name for path in checkpoints] == ["checkpoint-4", "checkpoint-5"]
    (checkpoints[-1] / "files.json").unlink()
    (checkpoints[-1] / "trainer_state.json").unlink()
    (checkpoints[-1] / "optimizer.pt").unlink()
    run([domain], mine, recipe=recipe, resume=True)
    same_bytes(out, mine)
    assert losses(mine) == losses(out)


@pytest.fixture(scope="module")
def cut(domain, tmp_path_factory):
    """The folder of a run that ended after its third step, with two checkpoints."""
    mine = tmp_path_factory.mktemp("cut") / "mine"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RankerModule, "forward", stopping(3))
        with pytest.raises(KeyboardInterrupt):
            run([domain], mine, recipe=recipe_with(**EVERY_STEP))
    return mine.with_name("mine.training")


def left_of(cut, tmp_path):
    """A copy of the run's folder, and its last two checkpoints."""
    folder = shutil.copytree(cut, tmp_path / "mine.training")
    return folder / "checkpoint-2", folder / "checkpoint-3"


def gone(file):
    file.unlink()


def halved(file):
    os.truncate(file, file.stat().st_size // 2)


def emptied(file):
    os.truncate(file, 0)


def garbled(file):
    """As long as it was."""
    content = bytearray(file.read_bytes())
    content[len(content) // 3 :: 2] = bytes(len(content[len(content) // 3 :: 2]))
    file.write_bytes(content)


DAMAGE = [
    ("optimizer.pt", gone), ("optimizer.pt", halved), ("optimizer.pt", garbled),
    ("scheduler.pt", emptied), ("rng_state.pth", gone), ("rng_state.pth", halved),
    ("model.safetensors", gone), ("model.safetensors", halved), ("bank.safetensors", emptied),
    ("trainer_state.json", halved), ("clock.json", gone), ("clock.json", garbled),
    ("files.json", halved),
]  # fmt: skip


@pytest.mark.parametrize(("file", "damage"), DAMAGE)
def test_a_damaged_checkpoint_is_passed_over(cut, tmp_path, capsys, file, damage):
    before, last = left_of(cut, tmp_path)
    out = tmp_path / "mine"
    identity = json.loads((last.parent / "run.json").read_text())["identity"]
    assert starting_point(last.parent, out, identity, resume=True) == str(last)
    damage(last / file)
    assert starting_point(last.parent, out, identity, resume=True) == str(before)
    assert "mine: checkpoint-3 is not whole" in capsys.readouterr().err
    damage(before / file)
    assert starting_point(last.parent, out, identity, resume=True) is None
    assert "starts anew" in capsys.readouterr().err


def test_a_checkpoint_of_before_seals_that_lacks_its_bank_is_named(tmp_path):
    write_seconds(tmp_path, 3.0)
    bank = ItemBank(4)
    with pytest.raises(RunError, match=r"lacks bank\.safetensors; delete it") as error:
        restore(tmp_path, Clock(Length(steps=2)), bank, torch.device("cpu"))
    one_sentence(error.value)


def test_a_resumed_run_has_trained_for_as_long_as_its_checkpoint_says(tmp_path):
    write_seconds(tmp_path, 42.0)
    clock = Clock(Length(minutes=1))
    restore(tmp_path, clock, None, torch.device("cpu"))
    assert clock.elapsed == pytest.approx(42.0, abs=1)
    assert clock.elapsed == clock.elapsed  # it stands still


def test_the_recipe_decides_the_weight_decay(tmp_path):
    batches = SimpleNamespace(steps=1, rounds=1)
    found = loop.arguments(tmp_path, recipe_with(weight_decay=0.25), batches, pico_backbone())
    assert found.weight_decay == 0.25


@pytest.mark.parametrize("left", [1, 0])
def test_a_run_goes_on_from_what_is_whole(whole, cut, domain, tmp_path, left):
    out, _ = whole
    checkpoints = left_of(cut, tmp_path)
    for checkpoint in checkpoints[left:]:
        gone(checkpoint / "optimizer.pt")
    run([domain], tmp_path / "mine", recipe=recipe_with(**EVERY_STEP), resume=True)
    same_bytes(out, tmp_path / "mine")
    assert losses(tmp_path / "mine") == losses(out)


@pytest.mark.parametrize(
    ("file", "damage"),
    [("optimizer.pt", gone), ("model.safetensors", halved), ("trainer_state.json", halved)],
)
def test_checkpoints_of_an_earlier_version(cut, tmp_path, file, damage):
    """They do not say which files they had."""
    before, last = left_of(cut, tmp_path)
    identity = json.loads((last.parent / "run.json").read_text())["identity"]
    for checkpoint in (before, last):
        (checkpoint / "files.json").unlink()
    assert starting_point(last.parent, tmp_path / "mine", identity, resume=True) == str(last)
    damage(last / file)
    assert starting_point(last.parent, tmp_path / "mine", identity, resume=True) == str(before)


@pytest.mark.parametrize(
    "content", [b"", b'{"finished": fal', b"[]", b'{"finished": true}', b"\xff"]
)
def test_a_damaged_record_is_said(cut, domain, tmp_path, content):
    _, last = left_of(cut, tmp_path)
    (last.parent / "run.json").write_bytes(content)
    for resume in (False, True):
        with pytest.raises(RunError, match=r"run\.json.*delete .*mine\.training") as error:
            run([domain], tmp_path / "mine", recipe=recipe_with(**EVERY_STEP), resume=resume)
        one_sentence(error.value)
    assert last.exists()


def test_an_interruption_before_the_first_checkpoint(whole, domain, tmp_path, stop_after):
    out, _ = whole
    mine = tmp_path / "mine"
    restore = stop_after(3)
    with pytest.raises(KeyboardInterrupt):
        run([domain], mine, recipe=recipe_with())
    restore()
    assert not list((tmp_path / "mine.training").glob("checkpoint-*"))
    run([domain], mine, recipe=recipe_with(), resume=True)
    assert losses(mine) == losses(out)


@pytest.fixture
def control_c(monkeypatch):
    """Send interrupts to this process at calls of the loss, counted from 1."""
    # A test runner's workers may have turned interrupts off.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def arm(*calls):
        loss, count = RankerModule.forward, [0]

        def interrupted(self, **batch):
            count[0] += 1
            for _ in range(calls.count(count[0])):
                signal.raise_signal(signal.SIGINT)
            return loss(self, **batch)

        monkeypatch.setattr(RankerModule, "forward", interrupted)
        return lambda: monkeypatch.setattr(RankerModule, "forward", loss)

    yield arm
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("step", [1, 4])
def test_an_interrupt_keeps_the_step(whole, domain, tmp_path, control_c, capsys, step):
    """Long before the first checkpoint is due."""
    out, _ = whole
    mine, backbone = tmp_path / "mine", pico_backbone()
    before = snapshot(backbone)
    restore = control_c(step)
    with pytest.raises(KeyboardInterrupt):
        run([domain], mine, backbone=backbone)
    restore()
    assert_as_it_was(backbone, before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    said = capsys.readouterr().err
    assert "mine: stopping after this step" in said and f"mine: step {step} is kept." in said
    assert list(losses(mine)) == list(range(1, step + 1))
    torch.manual_seed(999)
    run([domain], mine, resume=True)
    assert f"going on from step {step}" in capsys.readouterr().err
    assert losses(mine) == losses(out) and learning_rates(mine) == learning_rates(out)
    validated = [row["step"] for row in read_log(tmp_path / "mine.training") if "ndcg@10" in row]
    assert validated == [STEPS // 2, STEPS]


def test_a_second_interrupt_stops_at_once(domain, tmp_path, control_c):
    control_c(3, 3)
    with pytest.raises(KeyboardInterrupt):
        run([domain], tmp_path / "mine")
    assert list(losses(tmp_path / "mine")) == [1, 2]
    assert not list((tmp_path / "mine.training").glob("checkpoint-*"))


def test_an_interrupt_in_the_last_step_ends_what_calls_the_training(
    whole, domain, tmp_path, control_c, monkeypatch
):
    _, adapter = whole
    mine, recipe = tmp_path / "mine", recipe_with(**EVERY_STEP)
    control_c(STEPS)
    with pytest.raises(KeyboardInterrupt):
        run([domain], mine, recipe=recipe)
    monkeypatch.setattr(RankerModule, "forward", None)  # nothing is left to train
    assert run([domain], mine, recipe=recipe, resume=True).sha256 == adapter.sha256


def test_interrupts_that_another_handles_are_left_to_it(domain, tmp_path, control_c):
    seen = []
    control_c(2)
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        run([domain], tmp_path / "mine", steps=3)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [1]


def test_a_finished_run_is_taken_as_it_is(whole, domain, monkeypatch):
    out, adapter = whole
    monkeypatch.setattr(RankerModule, "forward", None)  # nothing is trained
    again = run([domain], out, recipe=recipe_with(**EVERY_STEP), resume=True)
    assert again.sha256 == adapter.sha256


def test_another_version_of_the_package_takes_it_too(whole, domain, monkeypatch):
    out, adapter = whole
    monkeypatch.setattr(RankerModule, "forward", None)
    card = trainer._card
    monkeypatch.setattr(
        trainer, "_card", lambda *a: card(*a).model_copy(update={"version": "99.0"})
    )
    again = run([domain], out, recipe=recipe_with(**EVERY_STEP), resume=True)
    assert again.sha256 == adapter.sha256


def test_a_finished_run_whose_adapter_is_gone_is_made_again(whole, domain, tmp_path):
    out, _ = whole
    mine, recipe = tmp_path / "mine", recipe_with(**EVERY_STEP)
    run([domain], mine, recipe=recipe)
    for file in mine.iterdir():
        file.unlink()
    mine.rmdir()
    run([domain], mine, recipe=recipe, resume=True)
    same_bytes(out, mine)


# -- a disk that fills ------------------------------------------------------------------------


def torch_save(patch, full):
    patch.setattr(torch, "save", full(torch.save))
    return RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 704 vs 598")


def safetensors(patch, full):
    patch.setattr(loop, "save_file", full(loop.save_file))
    return SafetensorError("I/O error: No space left on device (os error 28)")


def run_log(patch, full):
    patch.setattr(log.RunLog, "write", full(log.RunLog.write))
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def end_of_the_log(patch, full):
    patch.setattr(log.RunLog, "close", full(log.RunLog.close, calls=0))
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", [torch_save, safetensors, run_log, end_of_the_log])
def test_a_full_disk_is_one_sentence_and_loses_no_checkpoint(whole, domain, tmp_path, place):
    out, _ = whole
    mine, recipe = tmp_path / "mine", recipe_with(**EVERY_STEP)
    error = None

    def full(function, calls=8):  # enough for a checkpoint or two, whatever the function
        left = [calls]

        def once(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise error
            return function(*args, **kwargs)

        return once

    with pytest.MonkeyPatch.context() as patch:
        error = place(patch, full)
        with pytest.raises(RunError, match=r"Cannot write .*mine\.training: No space") as said:
            run([domain], mine, recipe=recipe)
    one_sentence(said.value)
    assert not mine.exists()
    torch.manual_seed(7)
    run([domain], mine, recipe=recipe, resume=True)
    same_bytes(out, mine)
    assert losses(mine) == losses(out)


def test_other_errors_of_torch_are_raised_as_they_are(domain, tmp_path, stop_after):
    stop_after(2, RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"))
    with pytest.raises(RuntimeError, match="size of tensor"):
        run([domain], tmp_path / "mine")


# -- one at a time ----------------------------------------------------------------------------


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_training_in_the_same_folder_is_refused(
    whole, domain, tmp_path, monkeypatch, resume
):
    """It is started in the midst of the first, which ends as if it had been alone."""
    out, _ = whole
    mine, recipe = tmp_path / "mine", recipe_with(**EVERY_STEP)
    loss, told = RankerModule.forward, []

    def beside(self, **batch):
        if not told:
            monkeypatch.setattr(RankerModule, "forward", loss)
            with pytest.raises(RunError, match=r"mine\.training") as error:
                run([domain], mine, recipe=recipe, resume=resume)
            told.append(one_sentence(error.value))
        return loss(self, **batch)

    monkeypatch.setattr(RankerModule, "forward", beside)
    run([domain], mine, recipe=recipe)
    assert "Another training" in told[0]
    same_bytes(out, mine)
    assert losses(mine) == losses(out)
    run([domain], mine, recipe=recipe, resume=True)  # the end of the first opens the folder


# -- a second round ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(other, tmp_path_factory):
    """What a second round starts from, as it is after a journey through its folder."""
    out = tmp_path_factory.mktemp("base") / "base"
    train("base", [other], pico_backbone(), recipe_with(), out, Length(steps=4))
    return Adapter.load(out)


def test_a_second_round_starts_at_the_first_ones_scores(base, domain, tmp_path):
    """A rate of next to nothing leaves the base spirit's scores; a fresh start is elsewhere."""
    recipe = recipe_with(learning_rate=1e-12, weight_decay=0.0)
    second = run([domain], tmp_path / "second", steps=1, recipe=recipe, initial=base)
    fresh = run([domain], tmp_path / "fresh", steps=1, recipe=recipe)
    assert list(second.lora) == list(base.lora)
    for name, factors in base.lora.items():
        torch.testing.assert_close(second.lora[name].a, factors.a)
        torch.testing.assert_close(second.lora[name].b, factors.b)
        assert second.lora[name].scaling == factors.scaling
        assert fresh.lora[name].b.abs().max() < 1e-3 * factors.b.abs().max()
    card = Adapter.load(tmp_path / "second").card
    assert (card.role, card.initial_sha256) == ("ingredient", base.sha256)
    assert base.sha256[:16] in (tmp_path / "second" / "README.md").read_text()
    assert Adapter.load(tmp_path / "fresh").card.initial_sha256 is None


def test_what_is_trained_beside_an_adapter_is_added_to_it(base, domain, tmp_path):
    """A rate of next to nothing trains nothing, so that only the adapter beside it is at work."""
    backbone = pico_backbone()
    before = snapshot(backbone)
    recipe = recipe_with(learning_rate=1e-12, weight_decay=0.0, int8=False)
    first = {}
    for name, adapters in (("alone", {}), ("beside", {"beside": base}), ("on", {"initial": base})):
        out = tmp_path / name
        run([domain], out, steps=1, backbone=backbone, recipe=recipe, **adapters)
        first[name] = losses(out)[1]
        assert_as_it_was(backbone, before)
    # Both put the base spirit's update on the backbone, merged or as LoRA (whose input is dropped
    # out here and there).
    assert first["beside"] != first["alone"]
    adapter = Adapter.load(tmp_path / "beside")
    assert adapter.card.beside_sha256 == base.sha256
    assert base.sha256[:16] in (tmp_path / "beside" / "README.md").read_text()
    assert all(factors.b.abs().max() < 1e-9 for factors in adapter.lora.values())
    without_dropout = recipe.model_copy(update={"lora": LoraSettings(rank=2, alpha=4.0)})
    for name, adapters in (("beside2", {"beside": base}), ("on2", {"initial": base})):
        out = tmp_path / name
        run([domain], out, steps=1, backbone=backbone, recipe=without_dropout, **adapters)
        first[name] = losses(out)[1]
    assert first["beside2"] == pytest.approx(first["on2"], abs=1e-5)


def test_a_second_round_learns_and_can_be_resumed(base, domain, tmp_path, stop_after):
    recipe = recipe_with(**EVERY_STEP)
    whole = run([domain], tmp_path / "whole" / "mine", recipe=recipe, initial=base)
    assert whole.sha256 != base.sha256
    restore = stop_after(3)
    with pytest.raises(KeyboardInterrupt):
        run([domain], tmp_path / "mine", recipe=recipe, initial=base)
    restore()
    for other_start in ({}, {"initial": whole}, {"beside": base}):
        with pytest.raises(RunError, match="other settings or data"):
            run([domain], tmp_path / "mine", recipe=recipe, resume=True, **other_start)
    run([domain], tmp_path / "mine", recipe=recipe, resume=True, initial=base)
    same_bytes(tmp_path / "whole" / "mine", tmp_path / "mine")


@pytest.mark.parametrize(
    "lora",
    [
        LoraSettings(rank=3, alpha=6.0),
        LoraSettings(rank=2, alpha=8.0),
        LoraSettings(rank=2, alpha=4.0, target_modules=("q_proj",)),
    ],
)
def test_a_start_of_another_shape_is_refused(base, domain, tmp_path, lora):
    backbone = pico_backbone()
    before = snapshot(backbone)
    recipe = recipe_with().model_copy(update={"lora": lora})
    with pytest.raises(AdapterError, match=r"'base'.*rank, alpha or modules"):
        run([domain], tmp_path / "mine", backbone=backbone, recipe=recipe, initial=base)
    assert_as_it_was(backbone, before)
    assert not (tmp_path / "mine").exists()


def test_a_start_from_elsewhere_is_refused(base, domain, tmp_path):
    with pytest.raises(AdapterError, match="trained on backbone"):
        run([domain], tmp_path / "mine", backbone=pico_backbone(seed=1), initial=base)
    recipe = recipe_with().model_copy(update={"prompt": PromptSettings(max_history=5)})
    with pytest.raises(AdapterError, match="prompt settings"):
        run([domain], tmp_path / "mine", recipe=recipe, initial=base)


@pytest.mark.parametrize("use", ["initial", "beside"])
def test_of_a_cocktail_as_a_start_it_is_said_how_to_judge(base, domain, tmp_path, use, capsys):
    mixed = replace(base, card=base.card.model_copy(update={"role": "cocktail"}))
    run([domain], tmp_path / "mine", steps=1, **{use: mixed})
    assert "is a cocktail" in capsys.readouterr().err


def test_a_training_that_diverges_ends_with_a_sentence(domain, tmp_path, monkeypatch):
    """And without an adapter; what was kept before the loss left the numbers stays."""
    own, steps = RankerModule.forward, []

    def loss(self, **batch):
        steps.append(None)
        factor = float("nan") if len(steps) == 5 else 1.0
        return {"loss": factor * own(self, **batch)["loss"]}

    monkeypatch.setattr(RankerModule, "forward", loss)
    recipe = recipe_with(**EVERY_STEP)
    with pytest.raises(RunError, match="step 5 is no number") as error:
        run([domain], tmp_path / "mine", recipe=recipe)
    one_sentence(error.value)
    assert not (tmp_path / "mine").exists()
    kept = [folder.name for folder in (tmp_path / "mine.training").glob("checkpoint-*")]
    assert kept and "checkpoint-5" not in kept


@pytest.mark.parametrize("validations", [0, 2])
def test_weights_that_left_the_numbers_are_no_adapter(domain, tmp_path, monkeypatch, validations):
    """The last step's loss is finite, its gradient is not: no later loss would tell."""
    own, steps = RankerModule.forward, []

    def loss(self, **batch):
        steps.append(None)
        found = own(self, **batch)
        if len(steps) == STEPS:
            found["loss"].register_hook(lambda gradient: gradient * float("nan"))
        return found

    monkeypatch.setattr(RankerModule, "forward", loss)
    with pytest.raises(RunError, match=f"after step {STEPS} is no number") as error:
        run([domain], tmp_path / "mine", recipe=recipe_with(validations=validations))
    one_sentence(error.value)
    assert not (tmp_path / "mine").exists()
    record = json.loads((tmp_path / "mine.training" / "run.json").read_text())
    assert record["finished"] is False


def test_checkpoints_of_a_finished_run_are_not_gone_on_from(cut, domain, tmp_path):
    """They are left where the run was stopped right after it had written its record."""
    _, last = left_of(cut, tmp_path)
    folder = last.parent
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"finished": True}))
    out = tmp_path / "mine"
    assert starting_point(folder, out, "of another run", resume=False) is None
    assert not list(folder.glob("checkpoint-*"))


# -- minutes ----------------------------------------------------------------------------------


def test_minutes_end_a_run_and_its_learning_rate(domain, tmp_path, monkeypatch):
    monkeypatch.setattr("reccocktail.training.schedule.time", TickingTime(0.25))
    recipe = recipe_with(validations=0, warmup=0.0)
    adapter = train(
        "ingredient", [domain], pico_backbone(), recipe, tmp_path / "mine", Length(minutes=0.2)
    )
    assert 3 <= adapter.card.steps <= 48
    rates = list(learning_rates(tmp_path / "mine").values())
    assert len(rates) == adapter.card.steps
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.2 * rates[0]


def test_one_length_serves_two_runs(domain, tmp_path, monkeypatch):
    length, recipe, found = Length(minutes=0.2), recipe_with(validations=0), []
    for name in ("first", "second"):
        monkeypatch.setattr("reccocktail.training.schedule.time", TickingTime(0.25))
        train("ingredient", [domain], pico_backbone(), recipe, tmp_path / name, length)
        record = json.loads((tmp_path / f"{name}.training" / "run.json").read_text())
        found.append((Adapter.load(tmp_path / name).card.steps, record["seconds"]))
    assert found[0] == found[1]
    assert found[0][0] > 1 and found[0][1] >= 12


def test_saving_does_not_count_against_the_minutes(domain, tmp_path, monkeypatch):
    """Every save takes an hour here, and still the run of twelve seconds gets its steps."""
    clock = TickingTime(0.25)
    monkeypatch.setattr("reccocktail.training.schedule.time", clock)
    save = loop.AdapterTrainer._save

    def slow(self, *args, **kwargs):
        save(self, *args, **kwargs)
        clock.now += 3600

    monkeypatch.setattr(loop.AdapterTrainer, "_save", slow)
    adapter = train(
        "ingredient",
        [domain],
        pico_backbone(),
        recipe_with(validations=0, **EVERY_STEP),
        tmp_path / "mine",
        Length(minutes=0.2),
    )
    assert adapter.card.steps >= 3


# -- what it refuses, and what it gives back --------------------------------------------------


def test_an_unfinished_run_is_not_overwritten(domain, tmp_path, stop_after):
    restore = stop_after(2)
    with pytest.raises(KeyboardInterrupt):
        run([domain], tmp_path / "mine", recipe=recipe_with(**EVERY_STEP))
    restore()
    with pytest.raises(RunError, match=r"mine\.training.*--resume"):
        run([domain], tmp_path / "mine", recipe=recipe_with(**EVERY_STEP))


def test_other_settings_are_no_resumption(domain, other, tmp_path, stop_after):
    recipe = recipe_with(**EVERY_STEP)
    restore = stop_after(2)
    with pytest.raises(KeyboardInterrupt):
        run([domain], tmp_path / "mine", recipe=recipe)
    restore()
    gone = {"tastes": frozenset(["i0"])}
    for changed in (
        {"recipe": recipe_with(learning_rate=1e-4, **EVERY_STEP)},
        {"recipe": recipe, "steps": STEPS + 1},
        {"recipe": recipe, "backbone": pico_backbone(seed=1)},
        {"recipe": recipe, "exclude": gone},
    ):
        with pytest.raises(RunError, match="other settings or data"):
            run([domain], tmp_path / "mine", resume=True, **changed)
    with pytest.raises(RunError, match="other settings or data"):
        run([domain, other], tmp_path / "mine", resume=True, recipe=recipe)


@pytest.mark.parametrize("length", [{}, {"steps": 3, "minutes": 1.0}])
def test_a_run_has_one_length(length):
    with pytest.raises(RecipeError, match="one of the two"):
        Length(**length)


@pytest.mark.parametrize("ranker", ["dense", "choice"])
@pytest.mark.parametrize(
    ("targets", "each", "steps"), [(6400, 64, 300), (1000, 64, 47), (3, 64, 1), (0, 64, 1)]
)
def test_a_run_without_a_length_reads_histories_three_times_at_most(ranker, targets, each, steps):
    of = "targets_per_batch" if ranker == "dense" else "prompts_per_batch"
    recipe = recipe_with(**{of: each}).model_copy(update={"ranker": ranker})
    users = pl.DataFrame({"user_id": ["a", "b"]})
    # The first item of a history is nobody's target.
    counts = targets // 2 + 2, targets - targets // 2 + 2
    known, rest = (
        SimpleNamespace(train_counts=lambda n=n: np.array([n]), train=lambda: users) for n in counts
    )
    assert usual_steps([known, rest], recipe) == steps


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_backbone_comes_back_even_from_a_broken_run(domain, tmp_path, stop_after, error):
    backbone = pico_backbone()
    before = snapshot(backbone)
    restore = stop_after(2, error)
    with pytest.raises(error):
        run([domain], tmp_path / "mine", backbone=backbone)
    restore()
    assert_as_it_was(backbone, before)


def test_one_backbone_serves_run_after_run(whole, domain, tmp_path):
    _, adapter = whole
    backbone = pico_backbone()
    run([domain], tmp_path / "first", backbone=backbone, recipe=recipe_with(seed=3))
    second = run([domain], tmp_path / "mine", backbone=backbone, recipe=recipe_with(**EVERY_STEP))
    assert second.sha256 == adapter.sha256


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_other_families_train(domain, tmp_path, family):
    backbone = pico_backbone(family)
    before = snapshot(backbone)
    adapter = run([domain], tmp_path / "mine", steps=2, backbone=backbone)
    assert_as_it_was(backbone, before)
    assert any(factors.b.any() for factors in adapter.lora.values())

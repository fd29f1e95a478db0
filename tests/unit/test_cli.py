"""The command line from raw tables to a report, and one sentence for everything that goes wrong."""

import io
import json
import re
import shutil
import signal
from pathlib import Path

import polars as pl
import pytest
import yaml

from reccocktail import cli, launcher, spirits
from reccocktail.cli import main, shared
from reccocktail.training.adapter import Adapter
from reccocktail.training.loop import AdapterTrainer
from tests.adapters import pico_recipe
from tests.domains import write_raw
from tests.helpers import one_sentence
from tests.pico import pico_backbone, pico_model, pico_tokenizer

COMMANDS = [
    [], ["quickstart"], ["spirits"], ["data"], ["data", "list"], ["data", "fetch"],
    ["data", "prepare"], ["data", "overlap"], ["train"], ["mix"], ["evaluate"],
    ["recommend"], ["report"], ["export"], ["batch"], ["serve"],
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Backbone, raw tables, prepared domains and trained adapters, all made by commands."""
    folder = tmp_path_factory.mktemp("home")

    def go(command):
        assert exit_code(command.split()) == 0, command

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECCOCKTAIL_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        save_backbone(folder / "pico", seed=0)
        save_backbone(folder / "stranger", seed=1)
        recipe = pico_recipe("pico").model_dump(mode="json")
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        for name, tastes in (("shop", 2), ("mall", 4)):
            interactions, items = write_raw(folder / f"{name}-raw", tastes=tastes, users=60)
            go(
                f"data prepare --interactions {interactions} --items {items} --name {name} "
                f"--out {name} --min-count 2"
            )
        train = "--recipe recipe.yaml --backbone pico --steps 3"
        go(f"train --role base --data mall --data shop --out base {train}")
        go(f"train --role ingredient --data shop --out ingredient {train}")
        mix = "mix --adapter base --adapter ingredient --data shop --validation-users 6 --users 6"
        for scenario in ("warm", "cold"):
            go(f"{mix} --scenario {scenario} --out cocktail_{scenario}")
        go("evaluate --data shop --baseline popularity --out judged")
    return folder


def exit_code(words: list[str]) -> int:
    """Run a command as the shell would."""
    try:
        main(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def save_backbone(folder: Path, seed: int) -> None:
    pico_model("llama", seed).save_pretrained(folder)
    pico_tokenizer().save_pretrained(folder)


@pytest.fixture
def work(home, monkeypatch):
    """Work in `home`, with its cache."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("RECCOCKTAIL_CACHE", str(home / "cache"))
    return home


@pytest.fixture
def call(work, capfd, monkeypatch):
    """Run a command; gives exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(shared.output, "width", 200)  # it read its width on import

    def run(command):
        words = command if isinstance(command, list) else command.split()
        capfd.readouterr()
        code = exit_code(words)
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def refused(call):
    """Run a command that must fail with code 2 and one sentence; gives the sentence."""

    def run(command):
        code, out, err = call(command)
        assert code == 2, (out, err)
        lines = [line for line in err.splitlines() if line.strip()]
        assert lines[-1].startswith("reccocktail: "), err
        # Before the sentence there may be one line of progress, never a traceback.
        assert all(line.startswith("Loading backbone") for line in lines[:-1]), err
        return one_sentence(lines[-1].removeprefix("reccocktail: "))

    return run


# -- the whole way ----------------------------------------------------------------------------


def test_commands_lead_to_a_report(home, call):
    for name in ("shop", "mall"):
        assert (home / name / "manifest.json").exists()
    base, ingredient = Adapter.load(home / "base").card, Adapter.load(home / "ingredient").card
    assert (base.role, [d.name for d in base.data], base.steps) == ("base", ["mall", "shop"], 3)
    assert (ingredient.role, ingredient.recipe.prompt.max_history) == ("ingredient", 4)
    assert base.backbone.source == "folder" and base.recipe.backbone == "pico"
    for scenario in ("warm", "cold"):
        sheet = json.loads((home / f"cocktail_{scenario}" / "cocktail.json").read_text())
        assert sheet["scenario"] == scenario and sheet["adaptation"]["users"] <= 6
        assert [a["name"] for a in sheet["adapters"]] == ["base", "ingredient"]

    evaluate = (
        "evaluate --data shop --adapter base --adapter ingredient --adapter cocktail_warm "
        "--adapter cocktail_cold --baseline popularity --users 12 --validation-users 6 "
        "--out evaluation"
    )
    code, out, err = call(evaluate)
    assert code == 0 and "Traceback" not in err
    assert "cocktail_cold" in out and "NDCG@10" in out and "popularity" in out
    metrics = json.loads((home / "evaluation" / "metrics.json").read_text())
    assert list(metrics["models"]) == [
        "popularity", "backbone", "base", "ingredient", "cocktail_warm", "cocktail_cold"
    ]  # fmt: skip
    code, out, err = call("report evaluation --out pages/report.html")
    assert code == 0 and "pages/report.html" in out
    assert "cocktail_cold" in (home / "pages" / "report.html").read_text()


def test_recommend_to_a_user_and_to_titles(home, call):
    user = pl.read_parquet(home / "shop" / "test_warm.parquet")["user_id"][0]
    code, out, _ = call(f"recommend --adapter cocktail_warm --data shop --user {user} -k 4")
    assert code == 0 and len(re.findall(r"│ i\d+ ", out)) == 4
    ask = f"recommend --adapter cocktail_warm --data shop --user {user} -k 1000 --json"
    held, latest = (json.loads(call(f"{ask}{more}")[1]) for more in ("", " --latest"))
    bought = pl.read_parquet(home / "shop" / "test_warm.parquet")["target"][0]
    shown = [{place["item_id"] for place in found["recommendations"]} for found in (held, latest)]
    assert bought in shown[0] and bought not in shown[1]
    typed = ["--history", "red apple; gren bread", "--new-item", "bright [milk]", "-k", "1000"]
    code, out, _ = call(["recommend", "--adapter", "ingredient", "--data", "shop", *typed])
    assert code == 0
    assert "red apple -> red apple (100 %)" in out
    assert "gren bread -> green bread" in out  # the match is shown
    assert "bright [milk]" in out and "new:1" in out
    (row,) = [line for line in out.splitlines() if "new:1" in line]
    assert " new " in row


def test_titles_and_paths_are_shown_as_they_are(home, call, tmp_path):
    """Whatever the terminal library takes for markup or for the name of a picture."""
    odd = r"bright \[/b] [bold]milk[/] :tea:"
    typed = ["--history", "red apple :tea:", "--new-item", odd, "-k", "1000"]
    code, out, err = call(["recommend", "--adapter", "ingredient", "--data", "shop", *typed])
    assert code == 0, err
    assert f"{odd} " in out and "red apple :tea: -> red apple" in out
    users = home / "shop" / "test_warm.parquet"
    pl.read_parquet(users).select("user_id").write_csv(tmp_path / "users.csv")
    folder = tmp_path / "[/b] :tea:"
    command = ["batch", "--adapter", "ingredient", "--data", "shop", "--out", str(folder)]
    command += ["--users", str(tmp_path / "users.csv")]
    for said in (1, 0):  # the second call says on standard error that all is there
        code, *streams = call(command)
        assert code == 0 and str(folder) in streams[0], streams
        assert said or f"{folder.name}: finished before" in streams[1].replace("\n", "")
    code, _, err = call(["recommend", "--adapter", "ingredient", "--data", "[x] :tea:", *typed])
    assert code == 2 and "[x] :tea:" in err


def test_a_ranker_that_reads_candidates(home, call, refused):
    train = "train --role ingredient --data shop --recipe recipe.yaml --backbone pico --steps 1"
    assert call(f"{train} --out writer --ranker generate")[0] == 0
    assert Adapter.load(home / "writer").card.recipe.ranker == "generate"
    user = pl.read_parquet(home / "shop" / "test_warm.parquet")["user_id"][0]
    recommend = f"recommend --adapter writer --data shop --user {user}"
    code, out, _ = call(f"{recommend} -k 4 --retrieve dense --retriever base --ranker generate")
    assert code == 0 and len(re.findall(r"│ i\d+ ", out)) == 4
    code, out, _ = call(f"{recommend} -k 2 --retriever base --explain")
    assert code == 0 and out.count("rests on") == 2
    assert len(re.findall(r'^   Because you chose ".+", you may like "', out, re.MULTILINE)) == 2
    code, out, err = call(f"{recommend} -k 2 --retriever base --explain --json")
    answer = json.loads(out)
    assert code == 0 and [row["rank"] for row in answer["recommendations"]] == [1, 2]
    for row in answer["recommendations"]:
        reason = row["explanation"]["reason"]
        assert reason["cited"] in answer["history"] and reason["cited"]["title"] in reason["text"]
        left_out = {i["item_id"] for i in row["explanation"]["influences"]}
        assert left_out == {item["item_id"] for item in answer["history"][-4:]}
    assert len(answer["explanation_template_sha256"]) == 64
    dense = f"recommend --adapter ingredient --data shop --user {user} -k 1"
    code, out, err = call(f"{dense} --explain --json")
    (row,) = json.loads(out)["recommendations"]
    assert row["explanation"]["reason"] is None and row["explanation"]["influences"]
    assert "does not write" in err
    code, out, err = call(f"{dense} --json")
    assert set(json.loads(out)) == {"history", "recommendations"} and "does not write" not in err
    assert "trained for ranker generate, not choice" in refused(f"{recommend} --ranker choice")
    assert "cannot retrieve" in refused(f"{recommend} --retriever writer")
    code, _, _ = call("evaluate --data shop --adapter writer --users 3 --no-prior --out written")
    metrics = json.loads((home / "written" / "metrics.json").read_text())
    assert code == 0 and set(metrics["models"]) == {"backbone", "writer"}
    assert "differ in their ranker" in refused(
        "mix --adapter base --adapter writer --data shop --scenario warm --out none"
    )
    # Its tokenizer has no letters.
    assert "letters of one token" in refused(f"{train} --out chooser --ranker choice")


def test_an_evaluation_of_baselines_alone(call, tmp_path):
    code, out, err = call(f"evaluate --data shop --baseline popularity --out {tmp_path / 'e'}")
    assert code == 0 and "popularity" in out and "Loading backbone" not in err


def test_one_scenario_and_fixed_coefficients(call, tmp_path):
    half = tmp_path / "half"
    mix = f"mix --adapter base --adapter ingredient --data shop --scenario cold --out {half}"
    code, _, _ = call(f"{mix} --coefficients 0.5 --coefficients 0.5 --method factor")
    assert code == 0
    sheet = json.loads((half / "cocktail.json").read_text())
    assert (sheet["method"], sheet["coefficients"]) == ("factor", {"all": [0.5, 0.5]})
    code, out, _ = call(
        f"evaluate --data shop --adapter {half} --scenario cold --no-prior --no-full-catalogue "
        f"--out {tmp_path / 'e'}"
    )
    assert code == 0 and "warm" not in out


def test_overlap_and_list(call):
    code, out, _ = call("data overlap --data shop --data mall")
    assert code == 0 and "shop" in out and "mall" in out and "%" in out
    assert call("data overlap --data shop")[0] == 2
    code, out, _ = call("data list")
    assert code == 0 and "movielens-1m" in out and "smollm2-135m" in out


def test_the_same_commands_write_the_same_files(home, call, tmp_path):
    train = "train --role ingredient --data shop --recipe recipe.yaml --backbone pico --steps 3"
    assert call(f"{train} --out {tmp_path / 'ingredient'}")[0] == 0
    mix = "mix --adapter base --adapter ingredient --data shop --validation-users 6 --users 6"
    assert call(f"{mix} --scenario warm --out {tmp_path / 'cocktail_warm'}")[0] == 0
    for name in ("ingredient", "cocktail_warm"):
        for file in (home / name).iterdir():
            assert file.read_bytes() == (tmp_path / name / file.name).read_bytes(), file.name


def test_a_second_round_starts_from_an_adapter(call, refused, home, tmp_path):
    train = "train --role ingredient --data shop --recipe recipe.yaml --steps 1 --init base"
    assert call(f"{train} --backbone pico --out {tmp_path / 'second'}")[0] == 0
    started = Adapter.load(tmp_path / "second").card.initial_sha256
    assert started == Adapter.load(home / "base").sha256
    assert "base" in refused(f"{train} --backbone stranger --out {tmp_path / 'other'}")


def test_duplicate_titles_are_fine(call, tmp_path):
    interactions, items = write_raw(tmp_path / "raw", tastes=2, users=40)
    table = pl.read_parquet(items).with_columns(title=pl.lit("the same"))
    table.write_parquet(items)
    code, out, _ = call(
        f"data prepare --interactions {interactions} --items {items} --name twins "
        f"--out {tmp_path / 'twins'} --min-count 2"
    )
    assert code == 0 and "test_warm" in out


# -- shipped base spirits ---------------------------------------------------------------------


@pytest.fixture
def shipped(home, tmp_path, monkeypatch):
    """The package ships `base` as its base spirit for SmolLM2; gives the folder of spirits."""
    root = tmp_path / "spirits"
    place = spirits.folder("smollm2-135m", "dense", root)
    shutil.copytree(home / "base", place)
    for function in (spirits.resolve, spirits.default, spirits.shipped):
        monkeypatch.setattr(function, "__defaults__", (root,))
    return root


def test_a_shipped_base_spirit_is_an_adapter_by_name(shipped, home, call, tmp_path):
    out = tmp_path / "cocktail"
    mix = "mix --adapter base_spirit --adapter ingredient --data shop --scenario warm"
    code, _, err = call(f"{mix} --users 6 --validation-users 6 --backbone pico --out {out}")
    assert code == 0, err
    first = json.loads((out / "cocktail.json").read_text())["adapters"][0]
    assert first["name"] == "base_spirit" and first["sha256"] == Adapter.load(home / "base").sha256
    evaluate = "evaluate --data shop --adapter smollm2-135m/dense --users 6 --backbone pico"
    assert call(f"{evaluate} --no-prior --out {tmp_path / 'e'}")[0] == 0
    metrics = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert list(metrics["models"]) == ["backbone", "base_spirit"]
    train = "train --role ingredient --data shop --recipe recipe.yaml --backbone pico --steps 1"
    assert call(f"{train} --init base_spirit --out {tmp_path / 'second'}")[0] == 0
    recommend = ["recommend", "--adapter", "base_spirit", "--data", "shop", "--backbone", "pico"]
    assert call([*recommend, "--history", "red apple"])[0] == 0


def test_a_shipped_base_spirit_on_the_wrong_backbone(shipped, refused):
    said = refused("recommend --adapter base_spirit --data shop --user u1 --backbone stranger")
    assert re.search(r"'base_spirit' was trained on .*'pico'.* cannot be used on 'stranger'", said)


def test_spirits_are_listed(shipped, call):
    code, out, _ = call("spirits")
    assert code == 0
    for word in ("smollm2-135m/dense (base_spirit)", "pico", "dense", "MB", " 3 ", "mall, shop"):
        assert word in out, word
    shutil.rmtree(shipped)
    assert "ships no base spirit" in call("spirits")[1]


def test_a_name_that_is_not_shipped(shipped, refused):
    said = refused("recommend --adapter gpt/dense --data shop --user u1")
    assert "'gpt/dense'" in said and "(shipped: base_spirit, smollm2-135m/dense)" in said


# -- help and version -------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words) or "reccocktail")
def test_help_of_every_command(call, command):
    code, out, err = call([*command, "--help"])
    assert code == 0 and not err
    assert "Usage: " + " ".join(["reccocktail", *command]) in " ".join(out.split())
    for private in ("__module__", "NoneType", "Traceback"):
        assert private not in out


def test_every_parameter_has_a_description(call):
    from reccocktail.cli import app, data_app

    named = {tuple(words) for words in COMMANDS if words}
    known = {(name,) for name in app if not name.startswith("-")}
    known |= {("data", name) for name in data_app if not name.startswith("-")}
    assert known == named
    for words in sorted(named - {("data",)}):
        inner = (data_app if words[0] == "data" else app)[words[-1]]
        for argument in inner.assemble_argument_collection(parse_docstring=True):
            assert argument.parameter.help, (words, argument.names)


def test_version(call):
    from reccocktail import __version__

    assert call("--version")[1].strip() == __version__


# -- bad input: code 2 and one sentence -------------------------------------------------------


def test_missing_files_and_folders(refused, tmp_path):
    assert "nowhere.csv" in refused(
        f"data prepare --interactions nowhere.csv --items nowhere.csv --name x --out {tmp_path}/x"
    )
    train = "train --role ingredient --recipe recipe.yaml --backbone pico --steps 1"
    assert "nowhere" in refused(f"{train} --data nowhere --out {tmp_path}/a")
    assert "pico" in refused(f"{train} --data pico --out {tmp_path}/a")  # no prepared folder
    mix = f"mix --adapter base --data shop --scenario warm --out {tmp_path}/c"
    assert "nowhere" in refused(f"{mix} --adapter nowhere")
    assert "shop" in refused(f"{mix} --adapter shop")  # no adapter
    assert "nowhere" in refused(f"evaluate --data shop --adapter nowhere --out {tmp_path}/e")
    assert "nowhere" in refused("recommend --adapter nowhere --data shop --user u1")
    assert "nowhere" in refused("recommend --adapter base --data nowhere --user u1")
    assert "nowhere" in refused(f"report nowhere --out {tmp_path}/r.html")
    assert "shop" in refused(f"report shop --out {tmp_path}/r.html")
    assert "nothing.yaml" in refused(
        f"train --role base --data shop --recipe nothing.yaml --steps 1 --out {tmp_path}/a"
    )
    assert "nowhere" in refused(
        f"train --role base --data shop --backbone ./nowhere --steps 1 --out {tmp_path}/a"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_missing_column(refused, tmp_path):
    interactions, items = write_raw(tmp_path / "raw", tastes=2, users=20)
    pl.read_parquet(interactions).rename({"item_id": "what"}).write_parquet(interactions)
    prepare = f"data prepare --interactions {interactions} --items {items} --name x --out x"
    assert "item" in refused(prepare)
    assert "nothing" in refused(f"{prepare} --item-column nothing")
    pl.read_parquet(items).drop("title").write_parquet(items)
    assert "title" in refused(f"{prepare} --item-column what")


def test_unknown_people_titles_and_empty_histories(refused):
    recommend = ["recommend", "--adapter", "base", "--data", "shop"]
    assert "'nobody'" in refused([*recommend, "--user", "nobody"])
    assert "'-10iuHZ'" in refused([*recommend, "--user", "-10iuHZ"])
    assert "'-zxqv'" in refused([*recommend, "--history", "-zxqv"])
    assert "'zxqv'" in refused([*recommend, "--history", "red apple; zxqv"])
    assert "empty" in refused([*recommend, "--history", ""])
    assert "empty" in refused([*recommend, "--history", " ; ;"])
    assert "--user" in refused(recommend)
    assert "--history" in refused([*recommend, "--user", "u1", "--history", "red apple"])
    assert "-k" in refused([*recommend, "--history", "red apple", "-k", "0"])
    assert "--latest" in refused([*recommend, "--history", "red apple", "--latest"])


def test_what_needs_no_backbone_is_refused_before_it_is_loaded(refused, monkeypatch, tmp_path):
    """It may take minutes, to a typing error."""

    def never(*_, **__):
        raise AssertionError("a backbone was loaded")

    monkeypatch.setattr("reccocktail.backbone.load_backbone", never)
    ask = "recommend --adapter base --data shop"
    mix = f"mix --adapter base ingredient --data shop --scenario warm --out {tmp_path}/c"
    for command, what in (
        (f"{ask} --user nobody", "nobody"),
        (f"{ask} --history zxqv", "zxqv"),
        (f"{ask} --user u1 -k 0", "-k"),
        (f"{mix} --users 0", "--users"),
        (f"{mix} --coefficients 0.5", "Give 2 coefficients"),
        (f"{mix} --coefficients 0.5 0.5 --objective calibrated --dilute 0.5", "--dilute"),
        (f"{mix} --steps 3", "gradient search"),
        (f"{mix} --coefficients 0.5 0.5 --learning-rate 3", "gradient search"),
        (f"evaluate --data shop --adapter base base --out {tmp_path}/e", "Two models"),
        (f"evaluate --data shop --adapter base --users 0 --out {tmp_path}/e", "--users"),
    ):
        assert what in refused(command), command


def test_words_that_are_no_text_are_one_sentence(refused, tmp_path):
    for flags in (["--name", "caf\udce9", "--out", "x"], ["--name", "x", "--out", "caf\udce9"]):
        prepare = ["data", "prepare", "--interactions", "i", "--items", "t", *flags]
        assert "UTF-8" in refused(prepare)


def test_paths_that_lead_nowhere_are_one_sentence(refused, tmp_path, monkeypatch):
    interactions, items = write_raw(tmp_path / "raw", tastes=2, users=20)
    prepare = f"data prepare --interactions {interactions} --items {items} --name x --out"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(f"{prepare} {tmp_path}/loop")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "is gone" in refused(f"{prepare} {tmp_path}/out")


def test_a_long_name_is_a_name(call, tmp_path):
    interactions, items = write_raw(tmp_path / "raw", tastes=2, users=60)
    out = tmp_path / ("n" * 250)
    prepare = f"data prepare --interactions {interactions} --items {items} --name x --out {out}"
    assert call(prepare)[0] == 0 and (out / "manifest.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, "raw"]


def test_a_path_that_the_system_refuses_is_one_sentence(refused):
    for flags in (f"--adapter {'a' * 300} --data shop", f"--adapter base --data {'d' * 300}"):
        assert "check the path" in refused(f"recommend {flags} --user u1")


def test_output_into_a_file_is_unicode_whatever_the_code_page(monkeypatch):
    """And what its stream does with letters that it lacks stays so."""
    streams = [io.TextIOWrapper(io.BytesIO(), "cp1252", errors) for errors in ("strict", "replace")]
    for name, stream in zip(("stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(f"sys.{name}", stream)
    with pytest.raises(SystemExit):
        main(["spirits", "--no-such-flag"])
    assert [(s.encoding, s.errors) for s in streams] == [("utf-8", "strict"), ("utf-8", "replace")]


def test_what_no_launcher_set_is_no_launcher(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "all")
    monkeypatch.setenv("RANK", "first")
    assert launcher.processes() == 1 and launcher.is_first()


def test_damaged_adapters(refused, home, tmp_path):
    def damaged(name, file, content):
        folder = tmp_path / name
        shutil.copytree(home / "ingredient", folder)
        if content is None:
            (folder / file).unlink()
        else:
            (folder / file).write_bytes(content)
        return folder

    weights = (home / "ingredient" / "adapter_model.safetensors").read_bytes()
    cases = [
        damaged("cut", "adapter_model.safetensors", weights[: len(weights) // 2]),
        damaged("empty", "adapter_model.safetensors", b""),
        damaged("gone", "adapter_model.safetensors", None),
        damaged("config", "adapter_config.json", b"{"),
        damaged("card", "adapter.json", b"[]"),
        damaged("cardless", "adapter.json", None),
        damaged("binary", "adapter.json", b"\xff\xfe\x00"),
    ]
    for folder in cases:
        said = refused(f"recommend --adapter {folder} --data shop --user u1")
        assert folder.name in said
    mix = f"mix --adapter base --adapter {cases[0]} --data shop --scenario warm --out {tmp_path}/c"
    assert "cut" in refused(mix)
    assert not (tmp_path / "c").exists()


def test_the_wrong_backbone(refused, tmp_path):
    for command in (
        "recommend --adapter base --data shop --user u1",
        f"evaluate --adapter base --data shop --out {tmp_path}/e",
        f"mix --adapter base --adapter ingredient --data shop --scenario warm --out {tmp_path}/c",
    ):
        said = refused(f"{command} --backbone stranger")
        assert "base" in said and "stranger" in said
    assert list(tmp_path.iterdir()) == []


def test_the_wrong_device_and_dtype(refused):
    recommend = "recommend --adapter base --data shop --user u1"
    assert "abacus" in refused(f"{recommend} --device abacus")
    assert "float3" in refused(f"{recommend} --dtype float3")


def test_bad_flags_and_values(refused, tmp_path):
    mix = f"mix --adapter base --adapter ingredient --data shop --out {tmp_path}/c"
    evaluate = f"evaluate --data shop --baseline popularity --out {tmp_path}/e"
    train = f"train --data shop --out {tmp_path}/a --backbone pico"
    cases = {
        f"{mix} --scenario warm --flavour mild": "--flavour",
        f"{mix} --scenario lukewarm": "lukewarm",
        f"{mix} --scenario warm --method soup": "soup",
        f"{mix} --scenario warm --method ties --density 2": "density",
        f"{mix} --scenario warm --search published --steps 0": "one step",
        f"{mix} --scenario warm --users 0": "--users",
        f"{mix} --scenario warm --users many": "many",
        f"{mix} --scenario warm --seed 1.5": "1.5",
        "recommend --adapter base --data shop --user u1 -k 2.5": "2.5",
        f"{train} --role base --steps 2.6": "2.6",
        "serve --domain shop=shop:base --port 99999": "99999",
        "serve --domain shop=shop:base --port -1": "port",
        f"{mix} --scenario warm --validation-users -1": "validation users",
        f"{mix} --scenario warm --seed -1": "seed",
        f"{mix} --scenario warm --coefficients 0 --coefficients 0": "coefficients",
        f"{mix} --scenario warm --coefficients 1": "coefficients",
        mix: "--scenario",
        f"mix --adapter base --data shop --scenario warm --out {tmp_path}/c": "two adapters",
        "mix --adapter base --adapter ingredient --data shop --scenario warm --out base/../base": (
            "is one of the adapters that are mixed"
        ),
        f"{evaluate} --users 0": "--users",
        f"{evaluate} --users -3": "--users",
        f"{evaluate} --seed -1": "seed",
        f"{evaluate} --control ensemble": "one base spirit and one ingredient",
        f"{evaluate} --control placebo": "placebo",
        f"{evaluate} --baseline oracle": "oracle",
        f"{evaluate} --baseline popularity": "popularity",
        f"evaluate --data shop --out {tmp_path}/e": "--adapter",
        f"{train} --role base --data shop --steps 3": "given twice",
        f"{train} --role base --steps 3 --minutes 3": "--minutes",
        f"{train} --role base --steps 0": "steps",
        f"{train} --role base --steps {10**20}": "10,000,000 steps",
        f"{train} --role base --minutes nan": "minutes above 0",
        f"{train} --role base --minutes inf": "minutes above 0",
        f"{train} --role chef --steps 3": "chef",
        f"{train} --role ingredient --steps 3 --data mall": "one domain",
        "data fetch atlantis": "atlantis",
        "data prepare --name x": "--interactions",
        "report --out r.html": "evaluation folder",
        "quickstart --minutes 1": "2 minutes",
        "quickstart --domain flowers": "flowers",
        "stir": "stir",
        "data stir": "stir",
    }
    for command, what in cases.items():
        assert what in refused(command), command
    assert list(tmp_path.iterdir()) == []


def test_a_bad_recipe(refused, tmp_path):
    train = f"train --role base --data shop --steps 1 --out {tmp_path}/a --recipe"
    for text, what in (
        ("flavour: mild", "flavour"),
        ("lora: {rank: 0}", "lora.rank"),
        ("- a list", "mapping"),
        ("a: [", "recipe.yaml"),
        ("backbone: pico\nlora: {target_modules: [nothing]}", "nothing"),
        ("backbone: pico\nprompt: {template: nothing}", "nothing"),
        ("backbone: pico\nlora: {target_modules: embed_tokens}", "no linear layer"),
        ("training: {max_gradient_norm: .inf}", "training.max_gradient_norm"),
        ("training: {hard_negatives: 1}\ndense: {sampling_correction: 1}", "frequency"),
    ):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(text)
        assert what in refused(f"{train} {recipe}")


@pytest.fixture
def no_work(monkeypatch):
    """Training and mixing are errors: a refusal must come first."""

    def never(*_, **__):
        raise AssertionError("work was begun")

    monkeypatch.setattr(AdapterTrainer, "train", never)
    monkeypatch.setattr("reccocktail.mixing.measure.Mixer.measure", never)


@pytest.mark.usefixtures("no_work")
def test_a_folder_of_other_things_is_not_replaced(refused, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("mine")
    train = "train --role ingredient --data shop --recipe recipe.yaml --backbone pico --steps 1"
    mix = "mix --adapter base --adapter ingredient --data shop --scenario warm"
    for command in (train, mix):
        assert "thesis" in refused(f"{command} --out {folder}")
    assert "shop" in refused(f"{mix} --out shop")
    assert [path.name for path in tmp_path.rglob("*")] == ["thesis", "chapter.txt"]


@pytest.mark.usefixtures("no_work")
def test_the_output_is_a_file(refused, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    out = f"--out {file}"
    train = "train --role ingredient --data shop --recipe recipe.yaml --backbone pico --steps 1"
    prepare = "data prepare --interactions shop-raw/interactions.parquet --name x --min-count 2"
    for command in (
        f"{prepare} --items shop-raw/items.parquet {out}",
        f"{train} {out}",
        f"{train} {out}/inside",
        f"mix --adapter base --adapter ingredient --data shop --scenario warm {out}",
        f"evaluate --data shop --baseline popularity {out}",
        f"evaluate --data shop --baseline popularity {out}/inside",
        f"report judged {out}/inside.html",
    ):
        assert "file" in refused(command), command
        assert file.read_text() == "mine", command


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that nobody can write to")
def test_an_output_that_cannot_be_written_is_said_before_the_work(refused, monkeypatch):
    def never(*_, **__):
        raise AssertionError("work was done for nothing")

    monkeypatch.setattr("reccocktail.mixing.cocktail.Mixer", never)
    monkeypatch.setattr("reccocktail.evaluation.evaluate.make_baseline", never)
    monkeypatch.setattr(AdapterTrainer, "train", never)
    out = "--out /proc/nothing"
    for command in (
        f"train --role ingredient --data shop --recipe recipe.yaml --backbone pico --steps 1 {out}",
        f"mix --adapter base --adapter ingredient --data shop --scenario warm {out}",
        f"evaluate --data shop --baseline popularity {out}",
    ):
        assert "Cannot write /proc/nothing" in refused(command), command


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that nobody can write to")
def test_a_cache_that_cannot_be_written_is_said(refused, monkeypatch):
    monkeypatch.setenv("RECCOCKTAIL_CACHE", "/proc/nothing")
    assert "RECCOCKTAIL_CACHE" in refused("recommend --adapter base --data shop --user u1")


def test_brackets_and_stars_in_paths_are_letters(call, home, tmp_path):
    """Not patterns: other files beside the named ones must not be read."""
    raw = tmp_path / "raw"
    shutil.copytree(home / "shop-raw", raw)
    (raw / "items.parquet").rename(raw / "i*[1].parquet")
    (raw / "i2[1].parquet").write_bytes((raw / "i*[1].parquet").read_bytes())
    out = tmp_path / "gl[3]*"
    (tmp_path / "gl3 beside").mkdir()
    command = ["data", "prepare", "--interactions", f"{raw}/interactions.parquet", "--name", "x"]
    code, _, err = call(
        [*command, "--items", f"{raw}/i*[1].parquet", "--out", str(out), "--min-count", "2"]
    )
    assert code == 0, err
    code, _, err = call(f"evaluate --data {out} --baseline popularity --out {tmp_path}/e[1]")
    assert code == 0, err
    assert call(f"report {tmp_path}/e[1] --out {tmp_path}/page.html")[0] == 0


def test_given_coefficients_need_no_search(call, tmp_path):
    """So every method takes them, for any number of adapters and any granularity."""
    three = "--adapter base --adapter ingredient --adapter cocktail_warm --data shop"
    given = "--coefficients .2 --coefficients .3 --coefficients .5"
    for method in ("svd", "ties"):
        code, _, err = call(
            f"mix {three} --scenario warm --method {method} {given} --out {tmp_path / method}"
        )
        assert code == 0, err
    pair = "--adapter base --adapter ingredient --data shop --coefficients .2 --coefficients .8"
    layers = f"mix {pair} --scenario warm --method ties --granularity layer --out {tmp_path}/l"
    assert call(layers)[0] == 0


def test_an_unfinished_run(call, refused, tmp_path, monkeypatch):
    train = (
        "train --role ingredient --data shop --recipe recipe.yaml --backbone pico --steps 3 "
        f"--out {tmp_path / 'ingredient'}"
    )
    training = AdapterTrainer.train

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(AdapterTrainer, "train", interrupted)
    code, _, err = call(train)
    assert code == 130
    assert err.strip().splitlines()[-1].startswith("Interrupted. Run the command again with --res")
    assert "Traceback" not in err
    assert not (tmp_path / "ingredient").exists()
    monkeypatch.setattr(AdapterTrainer, "train", training)
    assert "--resume" in refused(train)
    assert "other settings" in refused(f"{train.replace('--steps 3', '--steps 4')} --resume")
    code, _, _ = call(f"{train} --resume")
    assert code == 0
    assert Adapter.load(tmp_path / "ingredient").card.steps == 3


def test_an_unfinished_evaluation_is_not_reported(refused, home, tmp_path):
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    assert "metrics.json" in refused(f"report {folder} --out {tmp_path}/r.html")


def test_a_changed_table_is_refused(refused, home, tmp_path):
    folder = tmp_path / "shop"
    shutil.copytree(home / "shop", folder)
    pl.read_parquet(folder / "train.parquet").head(5).write_parquet(folder / "train.parquet")
    said = refused(f"evaluate --data {folder} --baseline popularity --out {tmp_path}/e")
    assert "train.parquet" in said


def test_an_interrupt_gives_130_and_a_line(call, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("reccocktail.data.domain.Domain.load", stop)
    code, _, err = call("recommend --adapter base --data shop --user u1")
    assert code == cli.INTERRUPTED == 130
    assert err.strip() == (
        "Interrupted. Nothing is left half-written; run the command again to start anew."
    )


@pytest.mark.parametrize("on_interrupt", [signal.default_int_handler, signal.SIG_IGN])
def test_a_signal_to_end_is_an_interrupt(call, monkeypatch, request, on_interrupt):
    """Of a shell's background job too, which ignores interrupts."""
    usual = signal.signal(signal.SIGINT, on_interrupt)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, usual))
    before = signal.getsignal(signal.SIGTERM)
    cleared = []

    def ended(*_, **__):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            cleared.append(True)

    monkeypatch.setattr("reccocktail.data.domain.Domain.load", ended)
    code, _, err = call("recommend --adapter base --data shop --user u1")
    assert code == cli.INTERRUPTED and err.startswith("Interrupted.") and cleared == [True]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("command", ["quickstart", "batch --users x", "data fetch amazon14_beauty"])
def test_what_an_interrupt_keeps_is_said(command, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", stop)
    assert exit_code(command.split()) == cli.INTERRUPTED
    assert "Finished steps are kept; run the command again to go on." in capsys.readouterr().err


def test_our_own_mistakes_are_not_hidden(call, monkeypatch):
    """An error that no user can mend keeps its traceback."""

    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("reccocktail.data.domain.Domain.load", broken)
    with pytest.raises(ZeroDivisionError):
        call("recommend --adapter base --data shop --user u1")


def test_without_a_command_there_is_help(call):
    code, out, _ = call([])
    assert code == 0 and "quickstart" in out and "recommend" in out


def test_the_backbone_of_the_folder_is_the_one_in_memory(home):
    """The commands ran on the same weights as the other tests."""
    sha256 = Adapter.load(home / "base").card.backbone.sha256
    assert Adapter.load(home / "ingredient").card.backbone.sha256 == sha256
    shape = Adapter.load(home / "base").card.backbone
    assert shape.hidden_size == pico_backbone().fingerprint.hidden_size

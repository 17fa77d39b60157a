"""The command line as a stranger meets it: help, mistakes, exit statuses."""

import subprocess
import sys

import pytest

VERBS = ("quickstart", "build", "info", "preview", "train", "evaluate", "compare", "classify", "embed", "doctor")


def medweave(*words, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "medweave", *words], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_help_names_every_verb():
    shown = medweave("--help")
    assert shown.returncode == 0
    assert all(verb in shown.stdout for verb in VERBS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("build", "nowhere.yaml"), "no such file"),
        (("info", "nowhere"), "nowhere"),
        (("buld", "x"), "build"),
    ],
)
def test_mistakes_are_one_line_and_status_2(tmp_path, words, said):
    shown = medweave(*words, cwd=tmp_path)
    assert shown.returncode == 2
    assert said in shown.stderr
    assert "Traceback" not in shown.stderr

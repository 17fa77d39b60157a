"""The quickstart, shrunk: the same way from phantoms to a report, and the check of its split."""

import pytest
import yaml

from medweave import quickstart
from medweave.errors import UserError

SMALL = {
    "corpus": {"sources": [{"kind": "phantoms", "modalities": ["ultrasound", "ct"], "patients": 8, "size": 64}]},
    "model": {"image": {"size": 32}},
    "train": {"images": 128, "batch": 16, "workers": 0},
    "evaluate": {"draws": 100},
}


@pytest.mark.slow
def test_the_whole_way(tmp_path, monkeypatch):
    base = yaml.safe_load(quickstart.RECIPE.read_text())
    for section, values in SMALL.items():
        for key, value in values.items():
            base[section][key] = {**base[section].get(key, {}), **value} if isinstance(value, dict) else value
    small = tmp_path / "small.yaml"
    small.write_text(yaml.safe_dump(base))
    monkeypatch.setattr(quickstart, "RECIPE", small)
    shown = quickstart.run(tmp_path / "out")
    assert "phantom_ct" in shown and "which shows:" in shown
    page = (tmp_path / "out" / "report.html").read_text()
    assert "phantom_ultrasound" in page and "Every set in numbers" in page
    assert (tmp_path / "out" / "run" / "model" / "open_clip_config.json").exists()


def test_a_patient_on_two_sides_is_an_error():
    class Torn:
        path = "corpus"

        def index(self, columns):
            return {"patient": Column(["a", "a", None, None]), "split": Column(["train", "test", "train", "test"])}

    class Column(list):
        def to_pylist(self):
            return list(self)

    with pytest.raises(UserError, match="patient a"):
        quickstart.check_split(Torn())

import torch

from medweave.models import dual
from medweave.training.distributed import Ranks
from medweave.training.texts import computed, drawn, kept, with_more

ALONE = Ranks(0, 1, torch.device("cpu"))


def test_every_caption_of_a_run_is_known_before_it_begins(work_of):
    loader = work_of().loader
    expected = {text for step in range(6) for micro in loader[step].micros for text in micro.texts}
    assert drawn(loader, 6, 0, ALONE) == sorted(expected)
    assert drawn(loader, 6, 2, ALONE) == sorted(expected)


def test_rows_are_those_of_the_tower_one_by_one(recipe_of):
    model = dual.build(recipe_of(text={"freeze": True}).model)
    texts = ["chest", "a normal head", "lung " * 40, "x ray"]
    rows = computed(model, texts)
    with torch.no_grad():
        for text, row in zip(texts, rows, strict=True):
            assert torch.allclose(model.text_pooled(model.tokenize([text]))[0], row, atol=1e-5)


def test_rows_are_computed_once_and_kept(recipe_of, tmp_path, monkeypatch):
    model = dual.build(recipe_of(text={"freeze": True}).model)
    file = tmp_path / "texts.safetensors"
    rows = kept(model, ["chest", "head"], file, ALONE)(["head", "chest", "head"])
    monkeypatch.setattr(model, "text_pooled", lambda tokens: 1 / 0)
    assert torch.equal(kept(model, ["chest", "head"], file, ALONE)(["head", "chest", "head"]), rows)
    monkeypatch.undo()
    assert len(kept(model, ["chest", "head", "lung"], file, ALONE).rows) == 3


def test_only_what_is_not_known_is_computed(recipe_of, tmp_path, monkeypatch):
    model = dual.build(recipe_of(text={"freeze": True}).model)
    known = with_more(None, model, ["chest", "head"])
    seen = []
    monkeypatch.setattr("medweave.training.texts.computed", lambda m, t: seen.extend(t) or computed(m, t))
    more = with_more(known, model, ["head", "lung"])
    assert seen == ["lung"]
    assert torch.equal(more(["chest", "head"]), known(["chest", "head"]))
    assert torch.allclose(more(["lung"]), computed(model, ["lung"]), atol=1e-6)

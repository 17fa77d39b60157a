"""Zero-shot of a saved model agrees with clip_benchmark on stock open_clip, on the same images and prompts."""

import io
import json

import numpy as np
import open_clip
import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification as reference
from PIL import Image

from medweave.evaluation.benchmark import Benchmark
from medweave.evaluation.evaluate import evaluate
from medweave.evaluation.recipe import EvaluateRecipe
from medweave.models import dual, folder
from medweave.models.recipe import ModelRecipe

CLASSES = ("alphoma", "betosis", "gammitis")
PROMPTS = {name: [f"a picture of {name}", f"{name} is seen", f"signs of {name}"] for name in CLASSES}


class Listed(list):
    """A data set as clip_benchmark wants one."""

    classes = CLASSES


@pytest.fixture
def saved(tmp_path):
    """The folder of an untrained two-tower model, so small that it is made in a moment."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny-evaluated.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "configs")
    towers = {
        "image": {"tower": "open_clip:tiny-evaluated", "weights": None},
        "text": {"tower": "open_clip", "weights": None},
    }
    folder.save(dual.build(ModelRecipe.model_validate(towers)), tmp_path / "model", {})
    return tmp_path / "model"


def png(random):
    """Random patches of one tint, larger than the model's input and not square."""
    patches = random.integers(0, 256, (5, 6, 3)) * random.random(3)
    file = io.BytesIO()
    Image.fromarray(patches.repeat(9, 0).repeat(9, 1).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.slow
def test_the_same_accuracy_as_clip_benchmark(world, saved, tmp_path):
    world.fill("tints", CLASSES, each=40)
    random = np.random.default_rng(0)
    world.pixels = [png(random) for _ in world.rows]
    own = [{"finding": name, "prompts": {"plain": PROMPTS[name]}} for name in CLASSES]
    benchmark = Benchmark(name="tints", task="zero_shot", classes=own, prompt_sets=["plain"])
    results = evaluate(str(saved), [benchmark], world, tmp_path / "out", EvaluateRecipe(draws=100))
    (one,) = results.results
    told = results.predictions(one)

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{saved}")
    model.eval()
    number = {row["id"]: at for at, row in enumerate(world.rows)}
    images = [transform(Image.open(io.BytesIO(world.pixels[number[name]]))) for name in told.ids]
    data = torch.utils.data.DataLoader(Listed(zip(images, told.truth.argmax(1), strict=True)), batch_size=7)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{saved}")
    classifier = reference.zero_shot_classifier(model, tokenizer, list(CLASSES), PROMPTS, "cpu", amp=False)
    logits, truth = reference.run_classification(model, classifier, data, "cpu", amp=False)
    # clip_benchmark's own `accuracy` does not run on NumPy 2.4 (float of a 1-element array)
    right = (logits.argmax(1) == truth).double()
    assert one["metrics"]["accuracy"]["value"] == pytest.approx(right.mean().item())
    recall = reference.balanced_accuracy_score(truth, logits.argmax(1))
    assert one["metrics"]["balanced_accuracy"]["value"] == pytest.approx(recall)
    scale = model.logit_scale.exp().item() / 100
    np.testing.assert_allclose(told.scores["all"], scale * logits.numpy(), atol=1e-4)

"""Classification by prompts: heads, temperatures, and images that cannot be read."""

import numpy as np
import pytest

from medweave.errors import RequestError
from medweave.serving.calibration import Calibration
from medweave.serving.classify import as_data, as_text, classify
from medweave.serving.question import Question

PROMPTS = {"blue spot": ["a blue spot"], "red spot": ["a red spot", "some red"]}
CALIBRATED = Calibration(2.0, ("clinic",), 30)


def test_the_likest_finding_comes_first_with_softmax_shares(colours, folder):
    red, blue = classify(colours(), [folder / "a.png", folder / "b.jpg"], PROMPTS)
    assert red.findings == ("red spot", "blue spot") and blue.findings == ("blue spot", "red spot")
    assert red.probabilities == pytest.approx((np.exp(3) / (np.exp(3) + 1), 1 / (np.exp(3) + 1)))


def test_a_sigmoid_head_gives_each_candidate_its_own_probability(colours, folder):
    (red,) = classify(colours("sigmoid"), [folder / "a.png"], PROMPTS)
    assert red.probabilities == pytest.approx((1 / (1 + np.exp(-3)), 0.5))
    (alone,) = classify(colours("sigmoid"), [folder / "a.png"], {"red spot": ["red"]})
    assert alone.probabilities == pytest.approx((1 / (1 + np.exp(-3)),))


def test_logits_are_divided_by_the_temperature_that_was_fitted(colours, folder):
    (soft,) = classify(colours(), [folder / "a.png"], PROMPTS, CALIBRATED)
    assert soft.probabilities[0] == pytest.approx(1 / (1 + np.exp(-1.5)))
    (own,) = classify(colours("sigmoid"), [folder / "a.png"], PROMPTS, CALIBRATED)
    assert own.probabilities == pytest.approx((1 / (1 + np.exp(-1.5)), 0.5))


def test_a_bad_image_costs_no_good_one(colours, with_bad):
    answers = classify(colours(), [with_bad, with_bad / "aa.png"], PROMPTS)
    good = [a.image.rsplit("/")[-1] for a in answers if a.problem is None]
    assert good == ["a.png", "b.jpg"]
    problems = {a.image.rsplit("/")[-1]: a.problem for a in answers if a.problem is not None}
    assert "not a readable image" in problems["bad.jpg"] and "nearest: a.png" in problems["aa.png"]


def test_a_softmax_over_one_candidate_is_refused(colours, folder):
    with pytest.raises(RequestError, match="two findings"):
        classify(colours(), [folder / "a.png"], {"one": ["one"]})


def test_a_folder_without_images_is_refused(colours, tmp_path):
    with pytest.raises(RequestError, match=f"no images found .{tmp_path}"):
        classify(colours(), [tmp_path], PROMPTS)


def test_the_output_says_whether_probabilities_are_calibrated_and_on_what(colours, with_bad):
    answers = classify(colours(), [with_bad], PROMPTS, CALIBRATED)
    asked = Question(PROMPTS, ("xray", "chest"), CALIBRATED)
    data = as_data(answers, asked, "softmax")
    assert data["calibration"] == {"temperature": 2.0, "sources": ("clinic",), "images": 30}
    assert [one["image"].rsplit("/")[-1] for one in data["images"]] == ["a.png", "b.jpg"]
    assert [one["image"].rsplit("/")[-1] for one in data["unreadable"]] == ["bad.jpg"]
    assert "(softmax); calibrated on 30 validation images of clinic" in as_text(answers, asked, "softmax")
    bare = Question(PROMPTS)
    assert as_data(answers, bare, "sigmoid")["calibration"] is None
    assert "each candidate by itself (sigmoid); not calibrated" in as_text(answers, bare, "sigmoid")

"""Which temperature is used: of the place that is asked for, and of the very weights."""

from medweave.serving.calibration import Calibration, calibration_of


def case(source, temperature, anatomy="chest"):
    return {"source": source, "modality": "xray", "anatomy": anatomy, "temperature": temperature, "images": 30}


CASES = [case("a", 1.0), case("b", 4.0), case("c", 2.0), case("d", 9.0, "knee")]


def test_several_sources_of_a_place_give_their_median(colours):
    model = colours(calibration={"weights": "w", "cases": CASES})
    assert calibration_of(model, "xray", "chest") == Calibration(2.0, ("a", "b", "c"), 90)
    assert calibration_of(model, "xray", "knee") == Calibration(9.0, ("d",), 30)


def test_another_place_other_weights_or_no_evaluation_give_none(colours):
    model = colours(calibration={"weights": "w", "cases": CASES})
    assert calibration_of(model, "xray", None) is None and calibration_of(model, "ct", "chest") is None
    assert calibration_of(colours(calibration={"weights": "v", "cases": CASES}), "xray", "chest") is None
    assert calibration_of(colours(), "xray", "chest") is None

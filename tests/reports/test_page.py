"""Values as a page shows them."""

import pytest

from medweave.reports.page import percent


@pytest.mark.parametrize(
    ("share", "shown"), [(0.0, "< 1 %"), (0.0099, "< 1 %"), (0.01, "1 %"), (0.724, "72 %"), (0.9951, "> 99 %")]
)
def test_a_probability_is_never_rounded_to_certainty(share, shown):
    assert percent(share) == shown

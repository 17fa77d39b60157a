"""What libraries say while something is fetched stays off the terminal."""

import logging

import pytest

from medweave.errors import UserError
from medweave.models.reaching import reaching


def test_retries_and_failures_of_libraries_are_not_shown_and_later_ones_are(caplog):
    client, before = logging.getLogger("huggingface_hub.utils._http"), logging.getLogger("huggingface_hub").level
    with pytest.raises(UserError, match="cannot get the weights of RN50") as error, reaching("RN50", "weights"):
        client.warning("Retrying in 1s [Retry 1/5].")
        logging.getLogger().error("Failed to download weights for tag 'openai'")
        raise OSError("not there")
    assert "\n" not in str(error.value) and caplog.records == []
    assert logging.getLogger("huggingface_hub").level == before
    client.warning("Retrying in 1s [Retry 1/5].")
    assert len(caplog.records) == 1

"""Things that come from a hub or a folder: whatever goes wrong on the way becomes one clear line."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import transformers

from medweave.errors import UserError


@contextmanager
def reaching(name: str, what: str) -> Iterator[None]:
    """Turn the many errors of hub clients into one UserError: `what` (weights, tokenizer, …) of `name`."""
    try:
        with quietly():
            yield
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"cannot get the {what} of {name}",
            todo=f"it is no such folder here, not in the local hub cache, or the hub cannot be reached ({reason})",
        ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers' and open_clip's own reports off the terminal; what matters we say ourselves."""
    level, root = transformers.logging.get_verbosity(), logging.getLogger()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    root_level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(level)
        transformers.logging.enable_progress_bar()
        root.setLevel(root_level)

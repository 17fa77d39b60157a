"""Weights and tokenizers in transformers' format, strictly: every key there, none left over, every shape right."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoTokenizer

from medweave.errors import RequestError, UserError
from medweave.models.reaching import making, reaching
from medweave.models.tokens import check_tokenizer
from medweave.models.weights import SAFE, State, refuse
from medweave.models.whole import need, refuse_broken

OPTIONS: dict[str, Any] = {
    "dtype": torch.float32,
    "output_loading_info": True,
    "ignore_mismatched_sizes": True,  # so that the report names them
    "weights_only": True,
}
BUFFERS = ("position_ids", "relative_position_index")  # older versions stored them; they are computed now


def config_in(source: str | Path) -> Any:
    """The configuration of a folder, or of the hub."""
    need(source, "config.json")
    with reaching(str(source), "configuration"):
        return AutoConfig.from_pretrained(str(source))


def model_in(source: str | Path, unused: tuple[str, ...] = ()) -> Any:
    """The model of a folder, or of the hub, in eval(). unused: beginnings of keys that need not fit."""
    need(source, "*.safetensors", "*.bin")
    with reaching(str(source), "model"), _tensors_only(Path(source)):
        model, report = AutoModel.from_pretrained(str(source), **OPTIONS)
    refuse(_differences(report, unused), source)
    return model.eval()


def model_from(config: Any, state: Mapping[str, Tensor], where: Path) -> Any:
    """The model of a configuration with weights under the names that transformers stores, in eval()."""
    kept = {name: tensor for name, tensor in state.items() if not name.endswith(BUFFERS)}
    with making("model", where):
        kind: Any = MODEL_MAPPING[type(config)]
        model, report = kind.from_pretrained(None, config=config, state_dict=kept, **OPTIONS)
    refuse(_differences(report), where)
    return model.eval()


def width_of(config: Any, where: str | Path) -> int:
    """Width of a single tower's output. Raises RequestError for models of two towers."""
    widths = getattr(config, "hidden_sizes", None) or [getattr(config, "hidden_size", None)]
    if widths[-1] is None:
        raise RequestError(f"a {config.model_type} is no single tower", where=where)
    return int(widths[-1])


def tokenizer_in(source: str | Path, rows: int) -> Any:
    """The tokenizer of a folder, or of the hub. rows: token numbers that the tower knows."""
    with reaching(str(source), "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(str(source))
    check_tokenizer(tokenizer, source)
    if len(tokenizer) > rows:
        raise UserError(f"the tokenizer has {len(tokenizer)} words and the text tower {rows}", where=source)
    return tokenizer


def below(state: State, prefix: str) -> State:
    """The part of a state whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


@contextmanager
def _tensors_only(source: Path) -> Iterator[None]:
    try:
        yield
    except pickle.UnpicklingError as error:
        if source.is_dir():
            refuse_broken(source)
        raise UserError("more than tensors in the weights file", where=source, todo=SAFE) from error


def _differences(report: Mapping[str, Any], unused: tuple[str, ...] = ()) -> list[str]:
    """A phrase a key of transformers' own report."""
    shapes = [
        f"{name} is {list(given)} instead of {list(own)}" for name, given, own in sorted(report["mismatched_keys"])
    ]
    return [
        *(f"{name} is missing" for name in sorted(report["missing_keys"]) if not name.startswith(unused)),
        *shapes,
        *(f"{name} is unexpected" for name in sorted(report["unexpected_keys"]) if not name.startswith(unused)),
        *report["error_msgs"],
    ]

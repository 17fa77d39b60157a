"""One self-contained HTML page from a template: no script, no file beside it, nothing fetched."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

import medweave
from medweave.files import write_bytes

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("medweave.reports"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Render a template and write it, whole or not at all. Returns the path."""
    text = _ENVIRONMENT.get_template(template).render(version=medweave.__version__, **values)
    write_bytes(path, text.encode())
    return path


def picture(pixels: np.ndarray, longest: int = 224) -> str:
    """An image as a data URI. pixels: uint8 [h, w] or [h, w, 3]; shrunk to `longest` pixels on its longer side."""
    image = Image.fromarray(pixels)
    image.thumbnail((longest, longest))
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def number(value: float | None) -> str:
    """A value for a table; a dash where there is none."""
    return "–" if value is None or value != value else f"{value:.3f}"


def percent(share: float) -> str:
    """A probability in whole percent, never rounded to certainty: `72 %`, `< 1 %`, `> 99 %`."""
    return "< 1 %" if share < 0.01 else "> 99 %" if share > 0.99 else f"{100 * share:.0f} %"


def with_interval(metric: dict[str, float | None] | None) -> str:
    """A value and its interval: `0.812 (0.770 to 0.851)`."""
    if not metric or metric.get("value") is None:
        return "–"
    low, high = metric.get("low"), metric.get("high")
    return number(metric["value"]) + (f" ({number(low)} to {number(high)})" if low is not None else "")


_ENVIRONMENT.filters.update(number=number, percent=percent, interval=with_interval)

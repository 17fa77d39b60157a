"""Recipes: YAML -> checked objects, with `extends`, `a.b.c=value` overrides, and every mistake reported at once.

A recipe is a tree of `Section`s. A part that is chosen by name (a source, an objective) is a `Section` that lives in a
file of that name and repeats it as `kind: Literal["folder"] = "folder"`; `by_kind` finds it, so that adding one is
adding one file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from medweave.errors import RequestError, mistakes, nearest, unknown_name
from medweave.files import hash_of


class Section(BaseModel):
    """One part of a recipe. Unknown keys are refused; each field's description is its help text."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


S = TypeVar("S", bound=Section)
SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML has its C part


class _Loader(SafeLoader):  # type: ignore[misc, valid-type]
    """Refuses a key that stands twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """The mapping of a node."""
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_recipe(path: Path | str, kind: type[S], overrides: Sequence[str] = ()) -> S:
    """Read a YAML recipe, apply its `extends` and the overrides, and check it as a `kind`.

    Raises RequestError with one line for each mistake: dotted path, what is wrong, nearest valid names.
    """
    tree, wrong = merged(Path(path), overrides)
    return check(tree, kind, where=path, wrong=wrong)


def merged(path: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """The recipe as plain data, bases below it (`extends`) and overrides above it; and what is wrong with overrides.

    Raises RequestError for a file that cannot be read.
    """
    tree, wrong = _with_bases(path, seen=()), []
    for override in overrides:
        try:
            _override(tree, override)
        except RequestError as error:
            wrong.append(str(error))
    return tree, wrong


def check(tree: dict[str, Any], kind: type[S], where: str | Path, wrong: Sequence[str] = ()) -> S:
    """Plain data as a checked `kind`. Raises RequestError listing every mistake; wrong: those that are known before."""
    lines, checked = list(wrong), None
    try:
        checked = kind.model_validate(tree)
    except ValidationError as error:
        lines += [_line(e, kind) for e in error.errors()]
    if checked is None or lines:
        raise mistakes(lines, where)
    return checked


def as_data(recipe: Section) -> dict[str, Any]:
    """The recipe with every default written out, as plain data ready for YAML or JSON."""
    return recipe.model_dump(mode="json", serialize_as_any=True)


def recipe_hash(recipe: Section) -> str:
    """sha256 of the recipe with every default written out."""
    return hash_of(as_data(recipe))


def by_kind(package: str, attribute: str) -> Callable[[Any], Any]:
    """A pydantic `BeforeValidator` function: `{kind: NAME, …}` becomes the Section `attribute` of `package.NAME`."""

    def build(value: Any) -> Any:
        if isinstance(value, Section):
            return value
        if not isinstance(value, dict) or "kind" not in value:
            raise PydanticCustomError(
                "missing_kind", "needs `kind:` (one of {names})", {"names": ", ".join(kinds(package))}
            )
        return kind_of(package, value["kind"], attribute).model_validate(value)

    return build


def kinds(package: str) -> list[str]:
    """The names of the modules of `package`: each is one kind."""
    return sorted(
        m.name for m in pkgutil.iter_modules(importlib.import_module(package).__path__) if not m.name.startswith("_")
    )


def kind_of(package: str, name: str, attribute: str) -> Any:
    """The `attribute` of the module `package.name`. An unknown name is a mistake that lists the nearest ones."""
    if name not in kinds(package):
        options = nearest(str(name), kinds(package))
        raise PydanticCustomError(
            "unknown_kind", "no kind {name}; {hint}", {"name": repr(name), "hint": _did_you_mean(options)}
        )
    return getattr(importlib.import_module(f"{package}.{name}"), attribute)


def _with_bases(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise RequestError("a recipe extends itself", where=path)
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise RequestError("a recipe is a YAML mapping", where=path)
    base = tree.pop("extends", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise RequestError("`extends` is no path of a recipe", where=path, todo="name one file: extends: base.yaml")
    return _merge(_with_bases(path.parent / base, (*seen, path.resolve())), tree)


def read_yaml(path: Path) -> Any:
    """The data of a YAML file. Raises RequestError when it is missing, unreadable or broken, naming the line."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        near = nearest(path.name, [p.name for p in path.parent.glob("*.yaml")]) if path.parent.is_dir() else []
        raise RequestError("no such file", where=path, todo=_did_you_mean(near) if near else None) from None
    except OSError as error:
        raise RequestError(f"cannot be read: {error.strerror}", where=path) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"not a YAML file: {' '.join(str(error).split())}", where=path) from None


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merge(result[key], value) if both else value
    return result


def _override(tree: dict[str, Any], override: str) -> None:
    """Set one value in place: `a.b.0.c=value`, the value read as YAML."""
    dotted, sign, text = override.partition("=")
    if not sign or not dotted:
        raise RequestError(f"{override!r} is no override", todo="write it as a.b.c=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RequestError(f"the value of the override {override!r} is no YAML", todo="put it in quotes") from None
    *parents, last = dotted.split(".")
    node: Any = tree
    for depth, name in enumerate(parents):
        try:
            place = int(name) if isinstance(node, list) else name
            if not isinstance(node, list) and node.get(place) is None:
                node[place] = {}
            node = node[place]
        except (ValueError, IndexError, AttributeError):
            raise RequestError(
                f"the override {override!r} leads nowhere: nothing at {'.'.join(parents[: depth + 1])}"
            ) from None
    try:
        if isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
    except (ValueError, IndexError, TypeError):
        raise RequestError(
            f"the override {override!r} leads nowhere", todo="check its path against the recipe"
        ) from None


def _line(error: Any, kind: type[Section]) -> str:
    """One mistake as `dotted.path: what is wrong; nearest names`."""
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        *parents, name = error["loc"]
        return f"{path}: no such key; {_did_you_mean(nearest(str(name), _keys(kind, parents)))}"
    if error["type"] == "missing":
        return f"{path}: must be given"
    got = error.get("input")
    shown = f" (got {got!r})" if isinstance(got, str | int | float | bool) else ""
    return f"{path}: {error['msg'].removeprefix('Value error, ')}{shown}"


def _did_you_mean(options: Sequence[str]) -> str:
    return f"did you mean {' or '.join(options)}?" if options else "remove it"


def _keys(kind: Any, parents: Sequence[Any]) -> list[str]:
    """The valid keys of the section that lies at `parents` below `kind`, as far as annotations tell."""
    sections = [kind]
    for name in parents:
        if isinstance(name, int):
            continue
        fields = [s.model_fields[name].annotation for s in sections if name in s.model_fields]
        found = [section for annotation in fields for section in _sections_in(annotation)]
        sections = found or sections
    return sorted({key for section in sections for key in section.model_fields})


def _sections_in(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation, *(s for s in annotation.__subclasses__())]
    return [s for part in getattr(annotation, "__args__", ()) for s in _sections_in(part)]


__all__ = [
    "Section",
    "as_data",
    "by_kind",
    "check",
    "kind_of",
    "kinds",
    "load_recipe",
    "merged",
    "read_yaml",
    "recipe_hash",
    "unknown_name",
]

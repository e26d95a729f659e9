"""A look at a YAML config before it is parsed: mistakes that the parser would hide, or tell in its own terms."""

from __future__ import annotations

import dataclasses
import keyword
import types
import typing
from pathlib import Path
from typing import Any

from electra_ds.errors import UserError, did_you_mean


def check_config_file(path: Path, config_class: type) -> None:
    """Refuse a file that is no YAML mapping, that names a key twice, or a key that `config_class` does not have.

    Raises:
        UserError: names the file, the line and the key with its path.
    """
    import yaml

    try:
        root = yaml.compose(path.read_text("utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read ({error.strerror}); name a YAML file") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"--config {path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"--config {path}{line}: not YAML ({problem}); mend that line") from error
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"--config {path}: expected fields such as 'output: shards', one a line")
    _check(root, config_class, "", path)


def _check(node: Any, kind: Any, prefix: str, path: Path) -> None:
    """Check a mapping against a dataclass, or against a dictionary of them; other kinds are the parser's."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return
    config_class = _class_of(kind)
    hints = _hints(config_class)
    values = typing.get_args(kind)[1] if typing.get_origin(kind) is dict else None
    seen: set[str] = set()
    for key, value in node.value:
        name = str(key.value)
        where = f"--config {path}:{key.start_mark.line + 1}: "
        if name in seen:
            raise UserError(f"{where}'{prefix}{name}' stands here for the second time; join or rename them")
        seen.add(name)
        if hints and name not in hints:
            known = ", ".join(hints)
            raise UserError(f"{where}unknown key '{prefix}{name}'{did_you_mean(name, hints)}; known are {known}")
        inner = hints.get(name, values)
        if (
            dataclasses.is_dataclass(inner)
            and not isinstance(value, yaml.MappingNode)
            and value.value not in ("", "null")
        ):
            raise UserError(
                f"{where}'{prefix}{name}' is {value.value!r}; expected fields below it, such as 'inputs: ...'"
            )
        _check(value, inner, f"{prefix}{name}.", path)


def spelled(name: str) -> str:
    """How a field is spelled in options and YAML: ``from`` for `from_`, as Python keeps keywords to itself."""
    stem = name.removesuffix("_")
    return stem if stem != name and keyword.iskeyword(stem) else name


def rename_keywords(text: str, config_class: type) -> str:
    """Give the keys of a YAML text that stand for fields like `from_` the fields' own names."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return text  # the parser tells of it
    for index in sorted(_keyword_ends(root, config_class), reverse=True):
        text = f"{text[:index]}_{text[index:]}"
    return text


def _keyword_ends(node: Any, kind: Any) -> typing.Iterator[int]:
    """Where such keys end in the text."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return
    config_class = _class_of(kind)
    names = {spelled(name): name for name in typing.get_type_hints(config_class)} if config_class else {}
    hints = _hints(config_class)
    for key, value in node.value:
        name = str(key.value)
        if names.get(name, name) != name:
            yield key.end_mark.index - len(key.style or "")
        yield from _keyword_ends(value, hints.get(name))


def _class_of(kind: Any) -> Any:
    """The config class that a field's type is or may be; None if it is something else."""
    classes = [kind, *typing.get_args(kind)] if isinstance(kind, types.UnionType) else [kind]
    return next((one for one in classes if dataclasses.is_dataclass(one)), None)


def _hints(config_class: Any) -> dict[str, Any]:
    """Type of each field by its spelling."""
    hints = typing.get_type_hints(config_class) if config_class else {}
    return {spelled(name): hint for name, hint in hints.items()}

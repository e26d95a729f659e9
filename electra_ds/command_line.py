"""From a config dataclass to a command line and back: parsing, YAML, help, errors.

One dataclass per command. `jsonargparse` turns its fields into ``--section.field`` options with the docstring under
each field as help, reads YAML by ``--config``, and validates types; here its complaints become one readable sentence.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import keyword
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from electra_ds.config_file import check_config_file, rename_keywords, spelled
from electra_ds.errors import UserError, did_you_mean

Config = TypeVar("Config")

DEBUG_VARIABLE = "ELECTRA_DS_DEBUG"
"""Set by ``--debug``: tracebacks are shown."""


def parse(
    config_class: type[Config],
    arguments: Sequence[str],
    program: str,
    find_config: Callable[[str], Path] | None = None,
    positional: str | None = None,
) -> Config:
    """Build a `config_class` from command line arguments.

    Args:
        config_class: a frozen dataclass, its fields documented by a docstring each; nested dataclasses are sections.
        arguments: what follows the command's name.
        program: shown in the usage, for example ``electra-ds prep``.
        find_config: maps the value of ``--config`` (a name or a path) to a YAML file.
        positional: name of the field that may be given without its option.

    Raises:
        UserError: unknown option or key, impossible value, missing file.
        SystemExit: ``--help`` was asked for.
    """
    parser = _parser(config_class, program)
    arguments = list(_resolve_config(arguments, find_config))
    if positional and arguments and not arguments[0].startswith("-"):
        arguments.insert(0, f"--{positional}")
    for path in _config_files(arguments):
        check_config_file(path, config_class)
    try:
        parsed = parser.parse_args(arguments)
        parsed.pop("config", None)
        instance = parser.instantiate(parsed)
        return config_class(**{f.name: instance[f.name] for f in dataclasses.fields(config_class)})  # type: ignore[arg-type]
    except SystemExit:
        raise
    except Exception as error:
        if isinstance(error, UserError):
            raise
        raise UserError(_readable(error, config_class, program)) from error


def bare_flag(arguments: Sequence[str], flag: str) -> list[str]:
    """Let a yes-or-no option such as ``--verify`` stand alone, as well as before ``true`` or ``false``."""
    result = list(arguments)
    for number, argument in enumerate(result):
        following = result[number + 1 : number + 2]
        if argument == flag and (not following or following[0].lower() not in ("true", "false", "yes", "no")):
            result[number] = f"{flag}=true"
    return result


def several(arguments: Sequence[str], flag: str) -> list[str]:
    """Let an option that takes a list be followed by its values, as in ``--other one.tsv two.tsv``."""
    result: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument.partition("=")[0] != flag:
            result.append(argument)
            continue
        values = [argument.partition("=")[2]] if "=" in argument else []
        while rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        is_list = len(values) == 1 and values[0].startswith("[")
        result.append(f"{flag}={values[0] if is_list else json.dumps(values)}")
    return result


def dump_yaml(config: Any) -> str:
    """Return a config as YAML that ``--config`` reads back to an equal object."""
    import yaml

    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)


def plain(value: Any) -> Any:
    """Turn dataclasses, tuples and paths into JSON-compatible dicts, lists and strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {spelled(field.name): plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _parser(config_class: type, program: str) -> Any:
    from jsonargparse import ActionConfigFile, ArgumentParser, set_parsing_settings

    class Parser(ArgumentParser):
        def parse_string(self, content: str, *arguments: Any, **named: Any) -> Any:
            return super().parse_string(rename_keywords(content, config_class), *arguments, **named)

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = Parser(prog=program, exit_on_error=False, allow_abbrev=False, description=config_class.__doc__)
    parser.add_argument(
        "--config", action=ActionConfigFile, help="YAML file with the fields below (or a recipe's name)"
    )
    parser.add_class_arguments(config_class, None)
    _spell_options(parser)
    return parser


def _spell_options(parser: Any) -> None:
    """Let the option of a field named like ``from_`` be ``--section.from``."""
    options = parser._option_string_actions
    for option in [option for option in options if option.endswith("_")]:
        section, dot, name = option.rpartition(".")
        if dot and spelled(name) != name:
            action = options.pop(option)
            options[section + dot + spelled(name)] = action
            action.option_strings = [section + dot + spelled(name)]
            action.metavar = spelled(name).upper()


def _resolve_config(arguments: Sequence[str], find_config: Callable[[str], Path] | None) -> Iterator[str]:
    """Replace the values of ``--config`` by paths."""
    expecting = False
    for argument in arguments:
        if find_config and expecting:
            argument = str(find_config(argument))
        elif find_config and argument.startswith("--config="):
            argument = "--config=" + str(find_config(argument.partition("=")[2]))
        expecting = argument == "--config"
        yield argument


def _config_files(arguments: Sequence[str]) -> Iterator[Path]:
    """Paths after ``--config``, of files that are there (the parser tells of others)."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        given = argument.partition("=")[2] if argument.startswith("--config=") else argument
        if (before == "--config" or given is not argument) and Path(given).is_file():
            yield Path(given)


def field_paths(config_class: type, prefix: str = "") -> Iterator[str]:
    """Yield every ``section.field`` of a config class."""
    from typing import get_type_hints

    hints = get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        kind = hints[field.name]
        yield prefix + spelled(field.name)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            yield from field_paths(kind, f"{prefix}{field.name}.")


def _readable(error: Exception, config_class: type, program: str) -> str:
    """One sentence from what jsonargparse or a config's own check said."""
    message = " ".join(str(error).split())
    message = re.sub(r'^Parser key "([^"]+)":\s*', r"\1: ", message)
    message = re.sub(rf"\b({'|'.join(keyword.kwlist)})_(?!\w)", r"\1", message)
    unknown = re.search(
        r"(?:Unrecognized arguments: --|does not accept (?:option|nested key) '|Key ')([\w.]+)", message, re.IGNORECASE
    )
    if unknown:
        name, known = unknown.group(1), list(field_paths(config_class))
        ends = [path for path in known if path.rpartition(".")[2] == name.rpartition(".")[2]]
        hint = f"; did you mean '{ends[0]}'?" if ends and name not in known else did_you_mean(name, known)
        if not hint:
            hint = did_you_mean(name, [path.rpartition(".")[2] for path in known])
        message = f"unknown option or key '{name}'{hint} ({message})"
    return f"{message}. '{program} --help' lists every field with its meaning"


def print_error(error: BaseException) -> None:
    """Write one error to standard error, in the form every command uses."""
    sys.stderr.write(f"electra-ds: error: {error}\n")
    sys.stderr.flush()


def run_named(
    arguments: list[str],
    program: str,
    commands: Mapping[str, tuple[str, str]],
    unit: str,
    placeholder: str,
    listed: str,
) -> int:
    """Run one of several commands that share a door, or say which there are.

    Args:
        arguments: its name, then its options.
        program: the door's name, for messages.
        commands: name to (module with `main`, one line for the overview).
        unit: what one of them is called in messages (``benchmark``).
        placeholder: stands for a name in the usage.
        listed: the same in the usage, where a plural takes an s.

    Returns:
        Exit status.

    Raises:
        UserError: none of that name.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, commands))
        print(f"usage: {program} {placeholder} [options]\n")
        print(f"options: each {listed} has its own; {placeholder} --help shows them\n\n{listed}s:")
        print("\n".join(f"  {name:<{width}}  {summary}" for name, (_, summary) in commands.items()))
        return 0
    name = arguments[0]
    if name not in commands:
        raise UserError(f"no {unit} '{name}'{did_you_mean(name, commands)}. '{program} --help' lists them")
    module = importlib.import_module(commands[name][0])
    return int(module.main(arguments[1:], f"{program} {name}") or 0)

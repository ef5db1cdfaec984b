"""Commands that start fast: whose plain values are not converted by pydantic, and of which only the one asked for is made.

Typer 0.29 imports pydantic for the first value that it converts, None too, and builds an adapter for each: a tenth of a second of
every command, as much as its own work may take. A text, a path, a natural number and what was not given need none of it.
Everything else, and whatever is wrong, goes to typer, so that its messages are the only ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command_name
from typer.models import CommandInfo

_OTHER: Final = object()
"""Of a value that is not plain."""
_DIGITS = 9
"""Of a number that surely has no other meaning to pydantic."""


class PlainCommand(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _plainly(super().get_params(ctx))


class PlainGroup(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _plainly(super().get_params(ctx))


class PlainTyper(typer.Typer):
    """A `typer.Typer` whose commands convert plain values themselves."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"cls": PlainGroup, **settings})

    def command(self, *args: Any, **settings: Any) -> Callable[[Any], Any]:
        return super().command(*args, **{"cls": PlainCommand, **settings})

    def only(self, name: str) -> PlainTyper:
        """This without the commands and groups of other names; itself where there is none of this name. Typer looks into the
        signature of every function that it has, for 30 ms, whichever is called."""
        commands = [each for each in self.registered_commands if _name(each) == name]
        groups = [each for each in self.registered_groups if each.name == name]
        if not commands and not groups:
            return self
        found = copy(self)
        found.registered_commands, found.registered_groups = commands, groups
        return found


def _name(command: CommandInfo) -> str | None:
    return command.name or (command.callback and get_command_name(command.callback.__name__))


def _plainly(params: list[Any]) -> list[Any]:
    """The parameters of a command, with `--help` and what else typer adds."""
    for param in params:
        if hasattr(param, "type_descriptor") and "process_value" not in vars(
            param
        ):  # typer before 0.29 has no descriptor
            param.process_value = partial(_process, param, param.process_value)
    return params


def _process(param: Any, typers: Any, ctx: Any, value: Any) -> Any:
    """In place of `Parameter.process_value`, which is `typers`."""
    found = _plain(param, value)
    if found is _OTHER:
        return typers(ctx, value)
    return found if param.callback is None else param.callback(ctx, param, found)


def _plain(param: Any, value: Any) -> Any:
    descriptor = param.type_descriptor
    info, annotation = descriptor.parameter_info, descriptor.annotation
    if value is None:
        return _OTHER if param.required or param.multiple or param.nargs != 1 else None
    if param.nargs != 1 or info.parser is not None:
        return _OTHER
    if param.multiple:
        texts = annotation == list[str] and type(value) in (list, tuple) and all(type(each) is str for each in value)
        return list(value) if texts and (value or not param.required) else _OTHER
    if type(value) is not str:
        return value if type(value) is annotation and value == param.default else _OTHER
    if annotation is str and not descriptor.is_path:
        return value
    if annotation is Path and not _checked(info) and (os.access(value, os.R_OK) or not os.path.lexists(value)):
        return Path(value)
    if annotation is int and value.isascii() and value.isdigit() and len(value) <= _DIGITS:
        number = int(value)
        inside = (info.min is None or info.min <= number) and (info.max is None or number <= info.max)
        return number if inside else _OTHER
    return _OTHER


def _checked(info: Any) -> bool:
    """Whether a path is to be looked at, or to be more than its text says."""
    asked = info.exists or info.writable or info.resolve_path or info.allow_dash or info.path_type is not None
    return asked or not (info.file_okay and info.dir_okay and info.readable)

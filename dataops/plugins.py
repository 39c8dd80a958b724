"""Find what the core and its plugins register: commands, rules, source kinds, losses, executors and so on.

Each is one object in one module. An entry point names it, in the group `pairmill.KIND` of the
distribution that brings it (`pairmill.rules`, `pairmill.losses`). The core registers its own
objects in the same way. Modules with these objects are light: what is heavy is imported where it is
used.

The config of an object extends the config table of its kind (`extend`). It enters the key of a
snapshot only where a config uses it; then the name and version of the plugin enter the key as well.
"""

import importlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from configparser import ConfigParser
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from dataops.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel

CORE = ("flows", "infra", "tasks", "training", "dataops")
"""Import packages of the core. What lies elsewhere is a plugin."""

COPIED_POINTS = "dataops/entry_points.txt"
"""File of a registered model's copy of the code, which has no distribution: all entry points of its objects."""

ModelT = TypeVar("ModelT", bound="BaseModel")


@runtime_checkable
class Configurable(Protocol):
    """An object with keys of its own in the config table of its kind.

    `table` states where: None adds the fields of `config` to the table itself (`filter.min_chars`);
    a name adds them as an optional table of that name (`[curate.scores]`). Keys in an attribute
    `execution_fields` change no output, and are in no snapshot key.
    """

    config: "type[BaseModel] | None"
    table: str | None


@cache
def load(kind: str) -> Mapping[str, Any]:
    """Return the objects of a kind by name, in the order of their `order` (a number, 100 by default), then of their names.

    Left out are objects that need a package which is not installed, and those of pairmill whose module is missing.

    Raises: ConfigError if a plugin's object cannot be imported for another reason: it names the distribution.
    """
    objects = {name: _import(point) for name, point in _points(kind).items()}
    found = {name: value for name, value in objects.items() if value is not None}
    ranked = sorted(found.items(), key=lambda item: (getattr(item[1], "order", 100), item[0]))
    return MappingProxyType(dict(ranked))


def find(kind: str, name: str) -> Any:
    """Return the object of a kind with this name; no other object is imported.

    Raises: ConfigError with the names that there are, or with the command that installs it.
    """
    point = _points(kind).get(name)
    if point is None:
        raise ConfigError(f"there is no {name!r} among the {kind}; there are {', '.join(load(kind))}")
    if (found := _import(point)) is None:
        raise ConfigError(f"{name!r} is not installed: {install_command(point)}")
    return found


def missing(kind: str) -> Mapping[str, str]:
    """Return the command that installs each registered object of a kind whose module or packages are missing, by name."""
    return {name: install_command(point) for name, point in _points(kind).items() if name not in load(kind)}


def targets(kind: str) -> Mapping[str, str]:
    """Return the `module:attribute` of each registered object whose module exists, by name, without importing it."""
    return {name: point.value for name, point in sorted(_points(kind).items()) if _exists(point)}


def names(kind: str) -> tuple[str, ...]:
    """Return the names of the registered objects of a kind, also of those whose module or packages are missing, sorted."""
    return tuple(sorted(_points(kind)))


def plugin_version(kind: str, name: str) -> int | None:
    """Return the `version` of an object that a plugin registers; None for one of the core."""
    return None if _is_core(_points(kind)[name]) else getattr(load(kind)[name], "version", 1)


def kinds(prefix: str) -> tuple[str, ...]:
    """Return the registered kinds that begin with a prefix, such as those of `commands.`, sorted."""
    return tuple(sorted(kind for kind in _all_points() if kind.startswith(prefix)))


@contextmanager
def naming_packages(kind: str, name: str) -> Iterator[None]:
    """Replace the error of an import that fails in the block, since a package of this plugin is not installed.

    Raises: ConfigError with the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        point = _points(kind)[name]
        if _is_core(point) or error.name is None or _is_installed(error.name):
            raise
        raise ConfigError(f"{name!r} needs {error.name}, not installed here: {install_command(point)}") from error


def _extra(name: str) -> str:
    """Return the name of an extra that every pip finds: before 23.3 it does not take an underscore for a dash."""
    return name.replace("_", "-")


def install_command(point: EntryPoint) -> str:
    """Return the command that installs a plugin: pairmill's extra of its name, or the distribution that registers it."""
    top, _, rest = point.module.partition(".")
    if top == "plugins":
        return f"pip install 'pairmill[{_extra(rest.partition('.')[0])}]'"
    return f"pip install --force-reinstall {point.dist.name if point.dist else top}"


def extend(model: type[ModelT], kind: str) -> type[ModelT]:
    """Return a model with the config keys of all registered objects of a kind, to be the base of a config table.

    The class has `plugin_fields`, the name and version of the plugin by field (the core's own
    fields are not among them), and `plugin_kinds`, the kinds whose objects may have keys in it.

    Raises: ConfigError if two objects have the same key or drop reason, or a key has no default.
    """
    from pydantic import BaseModel, create_model  # the list of commands needs no model

    mixins: list[type[BaseModel]] = []
    tables: dict[str, Any] = {}
    plugin_fields: dict[str, tuple[str, int]] = {}
    owners = dict.fromkeys(model.model_fields, model.__name__)
    for name, value in load(kind).items():
        if not isinstance(value, Configurable):
            raise ConfigError(f"{kind} {name}: {_points(kind)[name].value} is {value!r}, without config and table")
        if (config := value.config) is None:
            continue
        fields = [value.table] if value.table else list(config.model_fields)
        checks = config.__pydantic_decorators__  # a validator would replace another one of its name
        methods = [] if value.table else [*checks.field_validators, *checks.model_validators]
        used = (*fields, *methods, f"reason {getattr(value, 'reason', name)}")
        if doubled := [one for one in used if one in owners]:
            what = "config key" if doubled[0] in fields else "validator" if doubled[0] in methods else "drop"
            raise ConfigError(f"{kind} {name}: its {what} {doubled[0]} is already that of {owners[doubled[0]]}")
        owners |= dict.fromkeys(used, name)
        if value.table:
            tables[value.table] = (config | None, None)
        else:
            if required := [key for key in fields if config.model_fields[key].is_required()]:
                raise ConfigError(
                    f"{kind} {name}: its config key {required[0]} has no default; give one that turns it off"
                )
            mixins.append(config)
        if (version := plugin_version(kind, name)) is not None:
            plugin_fields |= dict.fromkeys(fields, (name, version))
    bases = (model, *reversed(mixins))  # pydantic orders keys from the last base on
    made: Any = create_model(
        model.__name__, __base__=bases, __module__=model.__module__, __doc__=model.__doc__, **tables
    )
    execution = (getattr(value, "execution_fields", frozenset()) for value in load(kind).values())
    made.execution_fields = frozenset().union(getattr(model, "execution_fields", ()), *execution)
    made.plugin_fields = {**getattr(model, "plugin_fields", {}), **plugin_fields}
    made.plugin_kinds = (*getattr(model, "plugin_kinds", ()), kind)
    return made


def require(packages: Iterable[str], extra: str, purpose: str) -> None:
    """Check that optional packages are installed.

    Args:
        packages: their import names.
        extra: the extra of pairmill that brings them.
        purpose: what needs them, as the subject of the message: "train.wandb".

    Raises: ConfigError with the command that installs them.
    """
    if lacking := [name for name in packages if not _is_installed(name)]:
        raise ConfigError(
            f"{purpose} needs {', '.join(lacking)}, not installed here: pip install 'pairmill[{_extra(extra)}]'"
        )


@cache
def _points(kind: str) -> Mapping[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in _copied_points(f"pairmill.{kind}") or _all_points().get(kind, ()):
        if (first := found.get(point.name, point)).value != point.value:
            raise ConfigError(
                f"two distributions register {kind} {point.name}: {_owner(first)} and {_owner(point)}; uninstall one"
            )
        found[point.name] = point
    return found


@cache
def _all_points() -> Mapping[str, list[EntryPoint]]:
    """Return the entry points of all distributions by kind; of a distribution that is there twice, those of the first.

    `importlib.metadata.entry_points` parses the files of all distributions at each call.
    """
    found: dict[str, list[EntryPoint]] = {}
    seen: set[str] = set()
    for distribution in distributions():
        if "[pairmill." not in (distribution.read_text("entry_points.txt") or "") or distribution.name in seen:
            continue
        seen.add(distribution.name)
        for point in distribution.entry_points:
            if point.group.startswith("pairmill."):
                found.setdefault(point.group.removeprefix("pairmill."), []).append(point)
    return found


def _copied_points(group: str) -> list[EntryPoint]:
    parser = ConfigParser(delimiters=("=",))
    parser.read(Path(__file__).with_name(Path(COPIED_POINTS).name), "utf-8")
    return [EntryPoint(*item, group) for item in (parser.items(group) if parser.has_section(group) else ())]


def _import(point: EntryPoint) -> Any:
    """Return the object of an entry point, or None if its module or a package that it imports is not installed."""
    if not point.attr:
        raise ConfigError(f"{_owner(point)}: {point.value} is a module; name an object in it, as MODULE:NAME")
    try:
        return point.load()
    except ConfigError:
        raise
    except Exception as error:
        if _is_core(point):
            raise
        if isinstance(error, ModuleNotFoundError) and (
            not (error.name and _is_installed(error.name)) if _exists(point) else point.module.startswith("plugins.")
        ):
            return None
        raise ConfigError(
            f"{_owner(point)}: cannot import {point.value}: {type(error).__name__}: {error}; update or uninstall it"
        ) from error


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module.partition(".")[0]) is not None


def _exists(point: EntryPoint) -> bool:
    """Return whether the module of an entry point is there; its parents are imported, it is not."""
    try:
        return importlib.util.find_spec(point.module) is not None
    except ModuleNotFoundError:
        return False


def _is_core(point: EntryPoint) -> bool:
    return point.module.partition(".")[0] in CORE


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.module

"""The API pages, one for each folder of atlaslib, written from the package itself.

Sphinx loads this module as an extension, too: it lets references by a short name find their entry.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from types import ModuleType
from typing import Any

import atlaslib

SHARED = ("files", "recipes", "profiles", "networks", "runs")


def pages() -> dict[str, str]:
    """Every API page but the first: its path without suffix, and its text in reStructuredText."""
    found = {}
    for folder in pkgutil.iter_modules(atlaslib.__path__, "atlaslib."):
        if folder.ispkg and folder.name not in ("atlaslib.results", "atlaslib.weights"):
            package = importlib.import_module(folder.name)
            below = pkgutil.walk_packages(package.__path__, f"{folder.name}.")
            modules = [importlib.import_module(name) for name in sorted(m.name for m in below)]
            name = folder.name.removeprefix("atlaslib.")
            found[f"book/api/{name}"] = page(name, described(package), [package, *modules])
    modules = [importlib.import_module(f"atlaslib.{name}") for name in SHARED]
    return found | {"book/api/shared": page("shared files", "What all folders share.", modules)}


def page(title: str, text: str, modules: list[ModuleType]) -> str:
    """A title, tables of all entries by module, then the entries themselves."""
    tables, entries = [], []
    for module in modules:
        if not (names := members(module)):
            continue
        face = [name for name in names if name in atlaslib.__all__]  # described on the first page
        short = module.__name__.removeprefix("atlaslib.")
        tables += [f"**{short}**: {described(module).splitlines()[0]}", "",
                   ".. autosummary::", "   :nosignatures:", "",
                   *(f"   ~atlaslib.{name}" if name in face else f"   ~{module.__name__}.{name}"
                     for name in names), ""]  # fmt: skip
        if not is_folder(module):  # whose title and docstring stand above
            entries += [short, "-" * len(short), ""]
        entries += [f".. automodule:: {module.__name__}",
                    "   :members:", "   :ignore-module-all:",
                    f"   :exclude-members: {', '.join(['set', *face])}", ""]  # fmt: skip
    return "\n".join([title, "=" * len(title), "", text, "", *tables, *entries])


def is_folder(module: ModuleType) -> bool:
    """Whether a module is one of the folders of atlaslib, each of which has a page."""
    return hasattr(module, "__path__") and module.__name__.count(".") == 1


def described(module: ModuleType) -> str:
    """A module's docstring, in which `name` in single backquotes is code."""
    text = inspect.getdoc(module) or ""
    return re.sub(r"(:\w+:`[^`]+`|``[^`]+``)|`([^`]+)`", lambda m: m[1] or f"``{m[2]}``", text)


def members(module: ModuleType) -> list[str]:
    """Functions and classes that a module defines itself, in the order of its source."""
    own = [
        (inspect.getsourcelines(value)[1], name)
        for name, value in vars(module).items()
        if (
            inspect.isclass(value)
            or (callable(value) and inspect.isfunction(inspect.unwrap(value)))
        )
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]
    return [name for _, name in sorted(own)]


# --- the Sphinx extension ------------------------------------------------------------------------


def say_once(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Drop the docstring of a folder: its page begins with it."""
    if what == "module" and is_folder(value):
        lines.clear()


def skip_field(
    app: Any, what: str, name: str, value: Any, skipped: bool, options: Any
) -> bool | None:
    """Leave out a field of a named tuple that only Python itself has described."""
    return True if str(value.__doc__).startswith("Alias for field number") else None


def full_name(short: str, names: list[str]) -> str:
    """The only one of `names` that a short name can mean, the public one first; "" if none."""
    if short in atlaslib.__all__:
        return f"atlaslib.{short}"
    meant = [name for name in names if name.startswith("atlaslib.") and name.endswith(f".{short}")]
    return meant[0] if len(meant) == 1 else ""


def find_entry(app: Any, env: Any, node: Any, content: Any) -> Any:
    """The link of a reference that names its entry without its module; None if there is none."""
    if node.get("refdomain") != "py":
        return None
    domain = env.get_domain("py")
    name = full_name(node["reftarget"], list(domain.objects))
    if not name:
        return None
    where = (env, node["refdoc"], app.builder)
    return domain.resolve_xref(*where, node["reftype"], name, node, content)


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", say_once)
    app.connect("autodoc-skip-member", skip_field)
    app.connect("missing-reference", find_entry)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

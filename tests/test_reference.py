"""The pages of the API hold every module and public name, and nothing of the machine."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections import namedtuple
from pathlib import Path
from types import ModuleType
from unittest import mock

import reference

import atlaslib

ROOT = Path(__file__).resolve().parent.parent


def test_every_module_is_in_the_reference() -> None:
    """A module missing from the API pages would also break links in docstrings."""
    text = "\n".join(reference.pages().values())
    modules = [m.name for m in pkgutil.walk_packages(atlaslib.__path__, "atlaslib.")]
    command_line = {"atlaslib.__main__", "atlaslib.commands"}
    missing = [m for m in {*modules} - command_line if f"automodule:: {m}\n" not in text]
    # a folder's own __init__ may have nothing to list
    assert [m for m in missing if reference.members(importlib.import_module(m))] == []


def test_every_public_name_is_in_the_reference() -> None:
    text = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"auto\w+:: atlaslib\.(\w+)", text))
    table = text[text.index("autosummary::") :].partition("```")[0]
    assert set(atlaslib.__all__) == documented
    assert set(re.findall(r"^   (\w+)$", table, re.MULTILINE)) == documented


def test_names_in_single_backquotes_are_code_in_the_reference() -> None:
    module = ModuleType("sample", "From `head`, :mod:`atlaslib.data`, ``files`` and `a b`.")
    shown = "From ``head``, :mod:`atlaslib.data`, ``files`` and ``a b``."
    assert reference.described(module) == shown


def test_a_folder_is_introduced_once() -> None:
    lines, module = ["The models by name.", ""], importlib.import_module("atlaslib.models")
    reference.say_once(None, "module", module.__name__, module, None, lines)
    assert lines == []
    text = reference.pages()["book/api/models"]
    assert (text.count("The models by name."), text.count("\nmodels\n")) == (2, 0)  # with its table


def test_fields_without_a_description_are_left_out() -> None:
    skipped = lambda value: reference.skip_field(None, "class", "low", value, False, None)  # noqa: E731
    assert skipped(namedtuple("Pair", ["low"]).low) is True
    assert skipped(reference.skip_field) is None


def test_a_short_name_means_the_only_entry_of_that_name() -> None:
    names = ["atlaslib.data.releases.survey", "atlaslib.a.title", "atlaslib.b.title", "c.survey"]
    assert reference.full_name("survey", names) == names[0]
    assert reference.full_name("title", names) == ""
    assert reference.full_name("evaluate", names) == "atlaslib.evaluate"  # the public one


def test_each_page_of_the_reference_begins_with_a_table_of_its_entries() -> None:
    for name, text in reference.pages().items():
        listed = re.findall(r"^   ~[\w.]+\.(\w+)$", text.partition("automodule::")[0], re.MULTILINE)
        assert listed, name
        assert not [entry for entry in listed if entry.startswith("_")]


def signatures(module: ModuleType) -> str:
    """The signatures that the API page of a module shows."""
    entries = [getattr(module, name) for name in reference.members(module)]
    classes = list(filter(inspect.isclass, entries))
    shown = [entry for entry in entries if callable(entry) and entry not in classes]  # cached, too
    for cls in classes:
        shown += filter(inspect.isfunction, vars(cls).values())
    return " ".join(str(inspect.signature(value)) for value in shown)


def test_no_signature_names_a_folder_of_the_machine() -> None:
    for found in pkgutil.walk_packages(atlaslib.__path__, "atlaslib."):
        assert str(ROOT) not in signatures(importlib.import_module(found.name))


def test_a_folder_of_the_machine_in_a_signature_is_caught() -> None:
    module = ModuleType("sample")
    written = "import functools, pathlib\n@functools.cache\ndef load(folder=pathlib.{!r}): ..."
    exec(written.format(ROOT), vars(module))
    module.load.__module__ = "sample"
    with mock.patch.object(reference.inspect, "getsourcelines", return_value=([], 1)):
        assert str(ROOT) in signatures(module)

"""Nothing stands there unused: each setting is read somewhere, each metric is counted."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import fastimd
from fastimd.base.metrics import Metrics
from fastimd.base.settings import settings

PACKAGE = Path(fastimd.__file__).parent
SETTINGS = PACKAGE / "base" / "settings"
METRICS = PACKAGE / "base" / "metrics.py"


def source_outside(place: Path) -> str:
    """The Python of the package, without a file or folder."""
    files = sorted(PACKAGE.rglob("*.py"))
    return "\n".join(each.read_text() for each in files if place not in (each, *each.parents))


def counting_methods(metric: str) -> list[str]:
    """The methods of ``Metrics`` that change a metric."""
    [metrics] = [
        node
        for node in ast.parse(METRICS.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "Metrics"
    ]
    return [
        method.name
        for method in metrics.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
        and method.name not in ("__init__", "collect")
        and f"self.{metric}" in ast.unparse(method)
    ]


@pytest.mark.parametrize("setting", [f"{each.section}.{each.key}" for each in settings()])
def test_a_setting_is_read(setting: str) -> None:
    """By its section and key, or from a section that has a name of its own."""
    section, _, key = setting.partition(".")
    source = source_outside(SETTINGS)
    assert re.search(rf"(?:\.{section}|settings|limits|self\._config)\.{key}\b", source)


@pytest.mark.parametrize("metric", [name for name in vars(Metrics()) if not name.startswith("_")])
def test_a_metric_is_counted(metric: str) -> None:
    """Where it happens, or by a method that is called there."""
    source = source_outside(METRICS)
    counted = re.search(rf"\b{metric}(?:\[[^\]]+\])?(?: \+= |\.observe\()", source)
    methods = counting_methods(metric)
    assert counted or any(re.search(rf"metrics\.{name}\b", source) for name in methods)

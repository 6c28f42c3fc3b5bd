"""The oldest versions that are tested are those that the package admits."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_oldest_versions_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    least = dict(each.split(">=") for each in asked if re.fullmatch(r"[\w-]+>=[\d.]+", each))
    lines = [line for line in (ROOT / ".ci" / "oldest.txt").read_text().splitlines() if not line.startswith("#")]
    tested = dict(line.split("==") for line in lines)
    assert tested.keys() == {"sentence-transformers", "torchmetrics", "transformers"}
    for name, version in tested.items():
        assert re.fullmatch(rf"{re.escape(least[name])}(\.0)*", version), name

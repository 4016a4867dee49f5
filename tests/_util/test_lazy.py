"""Packages that load at first use, and the error for those that are missing."""

import subprocess
import sys

import pytest

from amortvi._util.lazy import pandas, require
from amortvi.errors import MissingDependencyError

PROGRAM = """
import sys
from amortvi._util.lazy import arviz, pandas as pd, special, stats, xarray
assert not {"pandas", "scipy.stats", "scipy.special", "xarray", "arviz"} & set(sys.modules)
assert isinstance(pd.DataFrame(), pd.DataFrame) and "pandas" in sys.modules and "xarray" not in sys.modules
"""


def test_packages_load_at_first_use() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], check=True)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = pandas.no_such_name


def test_a_missing_package_is_named_with_its_extra() -> None:
    assert require("os.path", extra="any", purpose="this test").join("a", "b") == "a/b"
    for module in ("no_such_package", "no_such_package.part"):
        with pytest.raises(MissingDependencyError, match=r"this test needs no_such_package.*'amortvi\[flows\]'"):
            require(module, extra="flows", purpose="this test")

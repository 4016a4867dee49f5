"""`make test-pyro` runs this folder; the tests of the project do not collect it."""

collect_ignore_glob = ["*.py"]

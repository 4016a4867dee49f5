"""Numbers that a model reads from clocks, the operating system, and files."""

import datetime
import os
import secrets
import tempfile
import time
import uuid
from pathlib import Path

from tests.compile.svi.probes.programs import WATCHED, Program, observe, probe


def clock(read):
    """Return a program with a scale that depends on the time of the call."""
    return Program(lambda x: observe(x, 1.0 + read() % 1.0), comparable=False)


@probe(WATCHED)
def time_since_the_epoch():
    return clock(lambda: time.time() * 1e3)


@probe(WATCHED)
def performance_counter():
    return clock(lambda: time.perf_counter() * 1e3)


@probe(WATCHED)
def monotonic_clock():
    return clock(lambda: time.monotonic_ns() / 1e6)


@probe(WATCHED)
def date_and_time():
    return clock(lambda: datetime.datetime.now().microsecond / 1e4)


@probe(WATCHED)
def hour_of_the_day():
    """A coarse clock; the change is that of the time zone."""

    def model(x):
        observe(x, 1.0 + (time.localtime().tm_hour - time.gmtime().tm_hour) % 24)

    def change():
        os.environ["TZ"] = "UTC-6"
        time.tzset()

    os.environ["TZ"] = "UTC"
    time.tzset()
    return Program(model, change=change)


@probe(WATCHED)
def date_of_a_fixed_moment():
    def change():
        os.environ["TZ"] = "UTC-1"
        time.tzset()

    os.environ["TZ"] = "UTC"
    time.tzset()
    return Program(lambda x: observe(x, 1.0 + datetime.datetime.fromtimestamp(0).hour), change=change)


@probe(WATCHED)
def unique_identifier():
    return clock(lambda: uuid.uuid4().int / 2**128)


@probe(WATCHED)
def random_bytes():
    return clock(lambda: int.from_bytes(os.urandom(8)) / 2**64)


@probe(WATCHED)
def secret_number():
    return clock(lambda: secrets.randbelow(2**64) / 2**64)


@probe(WATCHED)
def identity_of_a_new_object():
    kept = []

    def read():
        kept.append(object())
        return id(kept[-1]) % 4096 / 4096

    return clock(read)


def file(read):
    """Return a program that reads a file, which changes."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as opened:
        path = Path(opened.name)
    path.write_text("1.0")
    return Program(
        lambda x: observe(x, float(read(path))), change=lambda: path.write_text("2.0"), undo=lambda: path.unlink()
    )


@probe(WATCHED)
def file_that_is_opened():
    def read(path):
        with open(path) as opened:
            return opened.read()

    return file(read)


@probe(WATCHED)
def text_of_a_path():
    return file(lambda path: path.read_text())


@probe(WATCHED)
def working_directory():
    before = Path.cwd()
    return Program(
        lambda x: observe(x, 1.0 if Path.cwd() == before else 2.0),
        change=lambda: os.chdir("/"),
        undo=lambda: os.chdir(before),
    )


@probe(WATCHED)
def files_of_a_directory():
    folder = tempfile.TemporaryDirectory()
    return Program(
        lambda x: observe(x, 1.0 + len(os.listdir(folder.name))),
        change=(Path(folder.name) / "stop").touch,
        undo=folder.cleanup,
    )

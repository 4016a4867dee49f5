"""Numbers and decisions that a model reads from containers."""

import collections
import functools
import heapq
import operator
import types

from tests.compile.svi.probes.programs import WATCHED, Program, observe, probe


@probe(WATCHED)
def item_of_a_list():
    scales = [1.0, 3.0]
    return Program(lambda x: observe(x, scales[0]), change=lambda: operator.setitem(scales, 0, 2.0))


@probe(WATCHED)
def list_of_150_items():
    scales = [1.0] * 150
    return Program(lambda x: observe(x, scales[149]), change=lambda: operator.setitem(scales, 149, 2.0))


@probe(WATCHED)
def list_that_grows():
    steps = [0]
    return Program(lambda x: observe(x, float(len(steps))), change=lambda: steps.append(1))


@probe(WATCHED)
def last_item_of_a_list_of_150():
    scales = [1.0] * 150
    return Program(lambda x: observe(x, scales[-1]), change=lambda: scales.append(2.0))


@probe(WATCHED)
def sum_of_a_list():
    scales = [0.5, 0.5]
    return Program(lambda x: observe(x, sum(scales)), change=lambda: scales.append(1.0))


@probe(WATCHED)
def list_of_lists():
    table = [[[1.0]], [[2.0]]]
    return Program(lambda x: observe(x, table[0][0][0]), change=lambda: operator.setitem(table[0][0], 0, 2.0))


@probe(WATCHED)
def list_of_objects():
    layers = [types.SimpleNamespace(scale=1.0), types.SimpleNamespace(scale=1.0)]
    return Program(lambda x: observe(x, layers[1].scale), change=lambda: setattr(layers[1], "scale", 2.0))


@probe(WATCHED)
def tuple_that_is_replaced():
    holder = {"scales": (1.0, 3.0)}
    return Program(lambda x: observe(x, min(holder["scales"])), change=lambda: holder.update(scales=(2.0, 3.0)))


@probe(WATCHED)
def list_in_a_tuple():
    pair = ([1.0], "fixed")
    return Program(lambda x: observe(x, pair[0][0]), change=lambda: operator.setitem(pair[0], 0, 2.0))


@probe(WATCHED)
def item_of_a_dict():
    options = {"scale": 1.0}
    return Program(lambda x: observe(x, options["scale"]), change=lambda: options.update(scale=2.0))


@probe(WATCHED)
def dict_of_150_items():
    table = {number: 1.0 for number in range(150)}
    return Program(lambda x: observe(x, table[140]), change=lambda: table.update({140: 2.0}))


@probe(WATCHED)
def nested_dict():
    options = {"model": {"noise": {"scale": 1.0}}}
    return Program(
        lambda x: observe(x, options["model"]["noise"]["scale"]),
        change=lambda: options["model"]["noise"].update(scale=2.0),
    )


@probe(WATCHED)
def key_that_is_added_later():
    options = {}
    return Program(lambda x: observe(x, options.get("scale", 1.0)), change=lambda: options.update(scale=2.0))


@probe(WATCHED)
def key_that_is_removed():
    options = {"narrow": True}
    return Program(lambda x: observe(x, 1.0 if "narrow" in options else 2.0), change=options.clear)


@probe(WATCHED)
def order_of_a_dict():
    scales = {"a": 1.0, "b": 2.0}
    return Program(lambda x: observe(x, next(iter(scales.values()))), change=lambda: scales.update(a=scales.pop("a")))


@probe(WATCHED)
def key_of_another_type():
    """True and 1 are the same key, and not the same number of rows."""
    scales = {1: None}

    def model(x):
        observe(x, 1.0 if type(next(iter(scales))) is int else 2.0)

    def change():
        scales.clear()
        scales[True] = None

    return Program(model, change=change)


@probe(WATCHED)
def keyword_arguments_from_a_dict():
    options = {}
    return Program(lambda x: observe(x, **options), change=lambda: options.update(scale=2.0))


@probe(WATCHED)
def members_of_a_set():
    flags = set()
    return Program(lambda x: observe(x, 2.0 if "wide" in flags else 1.0), change=lambda: flags.add("wide"))


@probe(WATCHED)
def deque():
    scales = collections.deque([1.0], maxlen=1)
    return Program(lambda x: observe(x, scales[0]), change=lambda: scales.append(2.0))


@probe(WATCHED)
def deque_that_rotates():
    scales = collections.deque([1.0, 2.0])
    return Program(lambda x: observe(x, scales[0]), change=lambda: scales.rotate(1))


@probe(WATCHED)
def default_dict():
    scales = collections.defaultdict(lambda: 1.0)
    return Program(lambda x: observe(x, scales["x"]), change=lambda: scales.update(x=2.0))


@probe(WATCHED)
def default_factory_that_is_replaced():
    scales = collections.defaultdict(lambda: 1.0)

    def model(x):
        observe(x, scales["x"])
        scales.clear()

    return Program(model, change=lambda: setattr(scales, "default_factory", lambda: 2.0))


@probe(WATCHED)
def ordered_dict():
    scales = collections.OrderedDict(a=1.0, b=2.0)
    return Program(lambda x: observe(x, next(iter(scales.values()))), change=lambda: scales.move_to_end("a"))


@probe(WATCHED)
def counter():
    seen = collections.Counter(batches=1)
    return Program(lambda x: observe(x, float(seen["batches"])), change=lambda: seen.update(["batches"]))


@probe(WATCHED)
def chain_map():
    scales = collections.ChainMap({}, {"scale": 1.0})
    return Program(lambda x: observe(x, scales["scale"]), change=lambda: scales.maps[0].update(scale=2.0))


@probe(WATCHED)
def user_dict():
    scales = collections.UserDict(scale=1.0)
    return Program(lambda x: observe(x, scales["scale"]), change=lambda: scales.update(scale=2.0))


@probe(WATCHED)
def view_of_a_dict():
    table = {"scale": 1.0}
    view = types.MappingProxyType(table)
    return Program(lambda x: observe(x, view["scale"]), change=lambda: table.update(scale=2.0))


@probe(WATCHED)
def dict_with_missing_keys():
    class Scales(dict):
        fallback = 1.0

        def __missing__(self, key):
            return self.fallback

    scales = Scales()
    return Program(lambda x: observe(x, scales["x"]), change=lambda: setattr(Scales, "fallback", 2.0))


@probe(WATCHED)
def attribute_of_a_dict():
    class Options(dict):
        pass

    options = Options(shift=0.0)
    options.scale = 1.0
    return Program(lambda x: observe(x, options.scale), change=lambda: setattr(options, "scale", 2.0))


@probe(WATCHED)
def dict_with_items_as_attributes():
    class Options(dict):
        __getattr__ = dict.__getitem__

    options = Options(scale=1.0)
    return Program(lambda x: observe(x, options.scale), change=lambda: options.update(scale=2.0))


@probe(WATCHED)
def subclass_of_list():
    class Schedule(list):
        def __getitem__(self, index):
            return 2.0 * super().__getitem__(index)

    schedule = Schedule([0.5])
    return Program(lambda x: observe(x, schedule[0]), change=lambda: operator.setitem(schedule, 0, 1.0))


@probe(WATCHED)
def heap():
    scales = [1.0, 2.0, 3.0]
    return Program(lambda x: observe(x, heapq.nsmallest(1, scales)[0]), change=functools.partial(heapq.heappop, scales))

"""Hooks and parametrizations of modules that are added or removed later."""

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from tests.compile.svi.probes.modules import decoding, network
from tests.compile.svi.probes.programs import WATCHED, probe


@probe(WATCHED)
def forward_hook():
    decoder = network()
    return decoding(decoder, lambda: decoder.register_forward_hook(lambda module, given, result: 2.0 * result))


@probe(WATCHED)
def forward_hook_on_a_part():
    decoder = network()
    return decoding(decoder, lambda: decoder[1].register_forward_hook(lambda module, given, result: 2.0 * result))


@probe(WATCHED)
def forward_hook_that_is_removed():
    decoder = network()
    return decoding(decoder, decoder.register_forward_hook(lambda module, given, result: 2.0 * result).remove)


@probe(WATCHED)
def forward_pre_hook():
    decoder = network()
    return decoding(decoder, lambda: decoder.register_forward_pre_hook(lambda module, given: (2.0 * given[0],)))


@probe(WATCHED)
def backward_hook():
    decoder = network()

    def double(module, received, gradient):
        return (3.0 * received[0],)

    return decoding(decoder, lambda: decoder[2].register_full_backward_hook(double))


@probe(WATCHED)
def backward_pre_hook():
    decoder = network()
    return decoding(decoder, lambda: decoder.register_full_backward_pre_hook(lambda module, given: (3.0 * given[0],)))


@probe(WATCHED)
def hook_on_all_modules():
    handles = []

    def change():
        hook = nn.modules.module.register_module_forward_hook(
            lambda module, given, result: 2.0 * result if isinstance(module, nn.Tanh) else None
        )
        handles.append(hook)

    return decoding(network(), change, undo=lambda: [handle.remove() for handle in handles])


@probe(WATCHED)
def hook_that_reads_a_number():
    decoder, options = network(), {"factor": 1.0}
    decoder.register_forward_hook(lambda module, given, result: options["factor"] * result)
    return decoding(decoder, lambda: options.update(factor=2.0))


@probe(WATCHED)
def forward_that_is_replaced():
    decoder = network()
    return decoding(decoder, lambda: setattr(decoder[1], "forward", torch.sin))


class Double(nn.Module):
    def forward(self, weight):
        return 2.0 * weight


@probe(WATCHED)
def parametrization_added_later():
    decoder = network()
    return decoding(decoder, lambda: parametrize.register_parametrization(decoder[0], "weight", Double()))


@probe(WATCHED)
def spectral_norm_added_later():
    decoder = network()
    return decoding(decoder, lambda: parametrizations.spectral_norm(decoder[0]))


@probe(WATCHED)
def weight_that_is_pruned():
    decoder = network()
    return decoding(decoder, lambda: prune.l1_unstructured(decoder[0], "weight", amount=0.5))

"""Which nodes of the given file each kernel of ONNX Runtime's optimized graph stands for.

Its trace knows kernels alone, and those of fused or re-laid-out nodes have names of its own (``<tensor>_nchwc``). The
optimized graph that it can write tells what each kernel gives out, and the given graph tells how that is computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

BLOCKED = "_nchwc"
"""What ONNX Runtime appends to a tensor's name where it holds the channels in blocks."""


def align(traced: Sequence[tuple[str, str]], optimized: onnx.ModelProto) -> bool:
    """Whether the nodes of `optimized` are the kernels `traced`, name and operator, in this order.

    A node without a name, from a function that was inlined, is traced as its operator and a number.
    """
    nodes = optimized.graph.node
    return len(traced) == len(nodes) and all(
        node.op_type == op and node.name in ("", name) for (name, op), node in zip(traced, nodes, strict=True)
    )


def kernel_sources(given: onnx.ModelProto, optimized: onnx.ModelProto) -> tuple[tuple[str, ...], ...]:
    """For each node of `optimized`, the names of the nodes of `given` that it computes, in graph order.

    They are those between what it gives out and what other kernels give out. Where neither its result nor itself has a
    name of `given`, as what changes the layout before a convolution, it counts for the kernels that read it.
    """
    live = _live(given)
    makers = {name: place for place, node in enumerate(live) for name in node.output if name}
    nodes = {node.name: node for node in live if node.name}
    given_out = [_results(kernel, makers, nodes) for kernel in optimized.graph.node]
    kept = set().union(*given_out)
    readers: dict[str, list[int]] = {}
    for place, kernel in enumerate(optimized.graph.node):
        for name in kernel.input:
            readers.setdefault(name, []).append(place)
    found: dict[int, set[int]] = {}
    # From the end, so that whoever reads a result is known before whoever gives it.
    for place in reversed(range(len(given_out))):
        if given_out[place]:
            found[place] = _between(given_out[place], live, makers, kept)
        else:
            after = (reader for name in optimized.graph.node[place].output for reader in readers.get(name, ()))
            found[place] = set().union(*(found[reader] for reader in after))
    named = ((live[each].name for each in sorted(found[place])) for place in range(len(given_out)))
    return tuple(tuple(filter(None, names)) for names in named)


def _results(kernel: onnx.NodeProto, makers: Mapping[str, int], nodes: Mapping[str, onnx.NodeProto]) -> set[str]:
    """The tensors of the given graph that a kernel gives out, by their names or, where these are new, by its own."""
    found = {name.removesuffix(BLOCKED) if name not in makers else name for name in kernel.output} & makers.keys()
    if found:
        return found
    if kernel.name in nodes:
        return set(filter(None, nodes[kernel.name].output))
    return {kernel.name.removesuffix(BLOCKED)} & makers.keys()


def _live(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that depend on the model's input; the others are computed once, before the first run."""
    known = {value.name for value in model.graph.input} - {value.name for value in model.graph.initializer}
    live = []
    for node in model.graph.node:
        if known.intersection(node.input):
            known.update(filter(None, node.output))
            live.append(node)
    return live


def _between(outputs: set[str], live: Sequence[onnx.NodeProto], makers: Mapping[str, int], kept: set[str]) -> set[int]:
    """Places of the nodes that compute `outputs` from tensors of `kept`."""
    waiting, places = [makers[name] for name in outputs], set()
    while waiting:
        place = waiting.pop()
        if place not in places:
            places.add(place)
            waiting += [makers[name] for name in live[place].input if name in makers and name not in kept]
    return places

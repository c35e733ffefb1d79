"""A choice between two graphs that is known beforehand, as the nodes of the one that is taken."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper


def chosen(
    node: onnx.NodeProto, condition: np.ndarray
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """The nodes of the branch that is taken, and its constants.

    What is computed inside of it gets names that nothing else has.

    Args:
      node: An ``If``.
      condition: Its operand.
    """
    wanted = "then_branch" if np.ravel(condition)[0] else "else_branch"
    (branch,) = (attribute.g for attribute in node.attribute if attribute.name == wanted)
    inside = {value for each in branch.node for value in each.output if value}
    inside.update(tensor.name for tensor in branch.initializer)
    names = {name: f"{node.output[0]}/{name}" for name in inside}
    nodes = []
    for each in branch.node:
        copied = onnx.NodeProto()
        copied.CopyFrom(each)
        _rename(copied, names)
        nodes.append(copied)
    for returned, value in zip(branch.output, node.output, strict=True):
        given = names.get(returned.name, returned.name)
        nodes.append(helper.make_node("Identity", [given], [value], name=node.name))
        nodes[-1].metadata_props.extend(node.metadata_props)
    constants = {names[t.name]: numpy_helper.to_array(t) for t in branch.initializer}
    return nodes, constants


def _rename(node: onnx.NodeProto, names: dict[str, str]) -> None:
    """Give values other names, also where branches inside of a node read them."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for attribute in node.attribute:
        own = {value for each in attribute.g.node for value in each.output}
        own.update(tensor.name for tensor in attribute.g.initializer)
        outer = {name: new for name, new in names.items() if name not in own}
        for each in attribute.g.node:
            _rename(each, outer)
        for output in attribute.g.output:
            output.name = outer.get(output.name, output.name)

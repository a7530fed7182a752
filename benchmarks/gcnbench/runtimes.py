"""Inference runtimes outside of PyTorch as CPU baselines, where they are installed: onnxruntime and OpenVINO.

Both run the same ONNX graph (for a GCN block four Conv nodes and an Add), with the weights as constants, float32, NCHW. They
get as many threads as PyTorch has. onnxruntime's threads would spin after a call and slow down whatever is timed next, so
they are told not to; OpenVINO would compute in bfloat16 where the CPU can, so it is told not to.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gcnbench.problems import Inputs
from gcnbench.variants import Call, UnavailableError

#: A node of a graph: operator, inputs, outputs, attributes.
Node = tuple[str, list[str], list[str], dict[str, Any]]


def missing(name: str) -> str | None:
    """What has to be installed for runtime ``name`` to run, or None."""
    absent = [package for package in (name, "onnx", "numpy") if importlib.util.find_spec(package) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def conv_node(
    source: str,
    weight: str,
    bias: str | None,
    result: str,
    shape: Sequence[int],
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Node:
    """A convolution with zero padding that keeps the map's size; ``shape`` is the weight's."""
    pads = [d * (k // 2) for d, k in zip(dilation, shape[2:], strict=True)] * 2
    attributes = {"kernel_shape": list(shape[2:]), "pads": pads, "dilations": list(dilation), "group": groups}
    return "Conv", [source, weight, *([] if bias is None else [bias])], [result], attributes


def gcn_nodes(inputs: Inputs) -> list[Node]:
    """The graph of a GCN block."""
    shapes = {name: t.shape for name, t in zip(inputs.arguments, inputs.tensors, strict=True)}

    def conv(source: str, branch: str, result: str) -> Node:
        return conv_node(source, f"w_{branch}", f"b_{branch}", result, shapes[f"w_{branch}"])

    return [
        conv("x", "l1", "u_l"),
        conv("u_l", "l2", "left"),
        conv("x", "r1", "u_r"),
        conv("u_r", "r2", "right"),
        ("Add", ["left", "right"], ["y"], {}),
    ]


def onnx_model(inputs: Inputs, nodes: Sequence[Node]) -> bytes:
    """A block as an ONNX model (opset 18) with input ``x`` and output ``y``; nodes name the inputs by their arguments."""
    onnx = importlib.import_module("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    x, *parameters = inputs.tensors

    def constant(name: str, t: Tensor) -> Any:
        return numpy_helper.from_array(t.detach().contiguous().numpy(), name)

    constants = [constant(name, t) for name, t in zip(inputs.arguments[1:], parameters, strict=True)]
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(kind, sources, results, **attributes) for kind, sources, results, attributes in nodes],
        "block",
        [helper.make_tensor_value_info("x", float32, list(x.shape))],
        [helper.make_tensor_value_info("y", float32, list(inputs.dy.shape))],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def onnxruntime_call(inputs: Inputs, mode: str, nodes: Callable[[Any], list[Node]] = gcn_nodes) -> Call:
    """Inference through onnxruntime's CPU provider.

    Raises:
        UnavailableError: not installed, or not a float32 inference on the CPU.
    """
    _require("onnxruntime", inputs, mode)
    ort = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(onnx_model(inputs, nodes(inputs)), options, providers=["CPUExecutionProvider"])
    feed = {"x": inputs.tensors[0].numpy()}
    return lambda: (torch.from_numpy(session.run(["y"], feed)[0]),)


def openvino_call(inputs: Inputs, mode: str, nodes: Callable[[Any], list[Node]] = gcn_nodes) -> Call:
    """Inference through OpenVINO's CPU plugin.

    Raises:
        UnavailableError: not installed, or not a float32 inference on the CPU.
    """
    _require("openvino", inputs, mode)
    core = importlib.import_module("openvino").Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = core.compile_model(core.read_model(model=onnx_model(inputs, nodes(inputs))), "CPU", settings)
    request = compiled.create_infer_request()
    feed = {"x": inputs.tensors[0].numpy()}
    return lambda: (torch.from_numpy(request.infer(feed, share_inputs=True, share_outputs=True)[0]),)


def _require(name: str, inputs: Inputs, mode: str) -> None:
    x = inputs.tensors[0]
    if (reason := missing(name)) is not None:
        raise UnavailableError(reason)
    if mode != "fwd" or x.device.type != "cpu" or x.dtype != torch.float32:
        raise UnavailableError(f"float32 inference on a CPU only, got {mode}, {x.dtype}, {x.device.type}")

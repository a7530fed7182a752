"""Inference runtimes outside of PyTorch as CPU baselines, where they are installed: onnxruntime and OpenVINO.

Both run the same ONNX graph: four Conv nodes and an Add, with the weights as constants, float32, NCHW. They get as many
threads as PyTorch has. onnxruntime's threads would spin after a call and slow down whatever is timed next, so they are
told not to; OpenVINO would compute in bfloat16 where the CPU can, so it is told not to.
"""

import importlib
import importlib.util
from typing import Any

import torch

from gcn_kernels.gcn.problem import BIASES, WEIGHTS
from gcnbench.problems import Inputs
from gcnbench.variants import Call, UnavailableError


def missing(name: str) -> str | None:
    """What has to be installed for runtime ``name`` to run, or None."""
    absent = [package for package in (name, "onnx", "numpy") if importlib.util.find_spec(package) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def onnx_model(inputs: Inputs) -> bytes:
    """The block as an ONNX model (opset 18) with input ``x`` and output ``y``."""
    onnx = importlib.import_module("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    x, *parameters = inputs.tensors
    names = (*WEIGHTS, *BIASES)
    shapes = {name: list(t.shape) for name, t in zip(names, parameters, strict=True)}

    def conv(source: str, branch: str, result: str) -> Any:
        kernel = shapes[f"w_{branch}"][2:]
        pads = [k // 2 for k in kernel] * 2
        return helper.make_node("Conv", [source, f"w_{branch}", f"b_{branch}"], [result], kernel_shape=kernel, pads=pads)

    nodes = [
        conv("x", "l1", "u_l"),
        conv("u_l", "l2", "left"),
        conv("x", "r1", "u_r"),
        conv("u_r", "r2", "right"),
        helper.make_node("Add", ["left", "right"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(t.detach().contiguous().numpy(), name) for name, t in zip(names, parameters, strict=True)
    ]
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "gcn",
        [helper.make_tensor_value_info("x", float32, list(x.shape))],
        [helper.make_tensor_value_info("y", float32, list(inputs.dy.shape))],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def onnxruntime_call(inputs: Inputs, mode: str) -> Call:
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
    session = ort.InferenceSession(onnx_model(inputs), options, providers=["CPUExecutionProvider"])
    feed = {"x": inputs.tensors[0].numpy()}
    return lambda: (torch.from_numpy(session.run(["y"], feed)[0]),)


def openvino_call(inputs: Inputs, mode: str) -> Call:
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
    compiled = core.compile_model(core.read_model(model=onnx_model(inputs)), "CPU", settings)
    request = compiled.create_infer_request()
    feed = {"x": inputs.tensors[0].numpy()}
    return lambda: (torch.from_numpy(request.infer(feed, share_inputs=True, share_outputs=True)[0]),)


def _require(name: str, inputs: Inputs, mode: str) -> None:
    x = inputs.tensors[0]
    if (reason := missing(name)) is not None:
        raise UnavailableError(reason)
    if mode != "fwd" or x.device.type != "cpu" or x.dtype != torch.float32:
        raise UnavailableError(f"float32 inference on a CPU only, got {mode}, {x.dtype}, {x.device.type}")

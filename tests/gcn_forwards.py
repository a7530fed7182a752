"""What a forward may do with the branches of a block: on the plain module and on the converted one."""

import random
from typing import Any

import torch
import torch.nn.functional as F
from swap_checks import Double
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def no_grad(m: Any, x: Tensor) -> Any:
    with torch.no_grad():
        u = m.conv_l1(x)
    return m.conv_l2(u) + m.right(x)


def no_grad_around_the_branches(m: Any, x: Tensor) -> Any:
    with torch.set_grad_enabled(m.flag):
        left, right = m.left(x), m.right(x)
    return left + right + x.sum()


def autocast(m: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not m.flag):
        left = m.left(x)
    return left.float() + m.right(x)


def inference(m: Any, x: Tensor) -> Any:
    with torch.inference_mode():
        left = m.left(x)
    return left.clone() + m.right(x)


def no_grad_around_one_branch(m: Any, x: Tensor) -> Any:
    with torch.no_grad():
        left = m.left(x)
    return left + m.right(x)


def in_place_on_the_input(m: Any, x: Tensor) -> Any:
    x = x * 1
    left = m.left(x)
    x.relu_()
    return left.detach() + m.right(x).detach()


def in_place_on_the_input_after_the_sum(m: Any, x: Tensor) -> Any:
    x = x.detach() * 1
    left = m.left(x)
    y = F.relu(left + m.right(x))
    x.mul_(2)
    return y.detach(), left.detach()


def in_place_on_a_weight(m: Any, x: Tensor) -> Any:
    left = m.left(x)
    with torch.no_grad():
        m.conv_l1.weight.mul_(2)
    return left.detach() + m.right(x).detach()


def weight_replaced(m: Any, x: Tensor) -> Any:
    left = m.left(x)
    kept, m.conv_r1.weight.data = m.conv_r1.weight.data, m.conv_r1.weight.data * 2
    y = left + m.right(x)
    m.conv_r1.weight.data = kept
    return y.detach()


def custom_function(m: Any, x: Tensor) -> Any:
    return m.conv_l2(Double.apply(m.conv_l1(x))) + m.right(x)


def custom_function_on_the_sum(m: Any, x: Tensor) -> Any:
    return Double.apply(m.left(x) + m.right(x))


def custom_function_beside(m: Any, x: Tensor) -> Any:
    left = m.left(x)
    return Double.apply(left) + (left + m.right(x))


def returns_a_branch_too(m: Any, x: Tensor) -> Any:
    left = m.left(x)
    return left + m.right(x), left


def uses_a_branch_later(m: Any, x: Tensor) -> Any:
    left = m.left(x)
    y = F.relu(left + m.right(x))
    return y * left.sigmoid()


def branch_in_place(m: Any, x: Tensor) -> Any:
    left = m.left(x)
    left.mul_(2)
    return left + m.right(x)


def sum_in_place(m: Any, x: Tensor) -> Any:
    left = m.left(x)
    same = left
    left += m.right(x)
    return left * 2 + same


def sum_by_method(m: Any, x: Tensor) -> Any:
    left = m.left(x)
    left.add_(m.right(x))
    return left


def sum_in_place_read_before(m: Any, x: Tensor) -> Any:
    left = m.left(x)
    before = left.detach() * 2
    left += m.right(x)
    return left * 2, before


def added_twice(m: Any, x: Tensor) -> Any:
    left, right = m.left(x), m.right(x)
    return (left + right) * (right + left)


def with_a_factor(m: Any, x: Tensor) -> Any:
    return torch.add(m.left(x), m.right(x), alpha=2)


def other_inputs(m: Any, x: Tensor) -> Any:
    return m.left(x) + m.right(x * 2)


def two_inputs(m: Any, x: Tensor) -> Any:
    z = torch.cat([x[:, :3], x[:, 3:] * 2], 1)
    return m.left(z) + m.right(z)


def chance(m: Any, x: Tensor) -> Any:
    y = F.dropout(m.left(x) + m.right(x), 0.5) * random.random()
    return y if random.random() < 0.5 else -y


def reads_a_flag(m: Any, x: Tensor) -> Any:
    y = m.left(x) + m.right(x)
    return -y if torch.is_grad_enabled() and not m.flag else y


def looks_at_a_branch(m: Any, x: Tensor) -> Any:
    left = m.left(x)
    m.seen.append((left.shape, left.dtype, left.requires_grad, isinstance(left, Tensor)))
    return left + m.right(x) if float(left.mean()) < 1e6 else left


def checkpoints_a_branch(m: Any, x: Tensor) -> Any:
    return checkpoint(m.left, x, use_reentrant=False) + m.right(x)


def checkpoints_all(m: Any, x: Tensor) -> Any:
    return checkpoint(lambda t: m.left(t) + m.right(t), x, use_reentrant=True)


def keeps_its_results(m: Any, x: Tensor) -> Any:
    m.last = m.left(x) + m.right(x)
    return m.last


def retains_a_gradient(m: Any, x: Tensor) -> Any:
    left = m.left(x)
    left.retain_grad()
    m.seen.append(left)
    return left + m.right(x)


def shared_convolution(m: Any, x: Tensor) -> Any:
    u = m.conv_l1(x)
    return m.conv_l2(u) + m.conv_l2(u)


FORWARDS = [
    no_grad,
    no_grad_around_the_branches,
    no_grad_around_one_branch,
    autocast,
    inference,
    in_place_on_the_input,
    in_place_on_the_input_after_the_sum,
    in_place_on_a_weight,
    weight_replaced,
    custom_function,
    custom_function_on_the_sum,
    custom_function_beside,
    returns_a_branch_too,
    uses_a_branch_later,
    branch_in_place,
    sum_in_place,
    sum_by_method,
    added_twice,
    with_a_factor,
    other_inputs,
    two_inputs,
    chance,
    reads_a_flag,
    looks_at_a_branch,
    checkpoints_a_branch,
    checkpoints_all,
    keeps_its_results,
    retains_a_gradient,
    shared_convolution,
]

"""What a forward may do within a boundary refinement: on the plain module and on the converted one."""

from typing import Any

import torch
import torch.nn.functional as F
from swap_checks import Double
from torch import Tensor


def middle_is_returned(m: Any, x: Tensor) -> Any:
    a = m.conv1(x)
    b = F.relu(a)
    return x + m.conv2(b), b, a


def middle_is_used(m: Any, x: Tensor) -> Any:
    a = F.relu(m.conv1(x))
    return (x + m.conv2(a)) * a


def first_is_used(m: Any, x: Tensor) -> Any:
    a = m.conv1(x)
    return x + m.conv2(F.relu(a)) + a


def in_place_seen_by_another_name(m: Any, x: Tensor) -> Any:
    a = m.conv1(x)
    b = F.relu(a, inplace=True)
    return x + m.conv2(b) + a


def in_place_without_its_result(m: Any, x: Tensor) -> Any:
    a = m.conv1(x)
    m.relu1(a)
    return x + m.conv2(a)


def in_place_after_it_was_read(m: Any, x: Tensor) -> Any:
    a = m.conv1(x)
    before = a.detach() * 2
    a.relu_()
    return x + m.conv2(a) + before


def twice_the_first(m: Any, x: Tensor) -> Any:
    a = m.conv1(x)
    return (x + m.conv2(F.relu(a))) * (m.conv1(x) + m.conv2(a.relu()))


def one_convolution_twice(m: Any, x: Tensor) -> Any:
    return x + m.conv1(torch.relu(m.conv1(x))) + m.conv2(x)


def of_what_is_not_x(m: Any, x: Tensor) -> Any:
    return x * 1 + m.conv2(F.relu(m.conv1(x * 1)))


def map_in_place(m: Any, x: Tensor) -> Any:
    x = x.detach().clone()
    a = F.relu(m.conv1(x))
    x.mul_(2)
    return (x + m.conv2(a)).detach()


def map_rectified_in_place(m: Any, x: Tensor) -> Any:
    x = m.conv1(x)
    a = m.conv1(x)
    x.relu_()
    return x + m.conv2(F.relu(a))


def sum_into_the_map(m: Any, x: Tensor) -> Any:
    x = x.detach() * 1
    x += m.conv2(F.relu(m.conv1(x))).detach()
    return x


def weight_in_place(m: Any, x: Tensor) -> Any:
    a = F.relu(m.conv1(x))
    with torch.no_grad():
        m.conv1.weight.mul_(1)
    return (x + m.conv2(a)).detach()


def no_grad_around_the_first(m: Any, x: Tensor) -> Any:
    with torch.no_grad():
        a = m.conv1(x)
    return x + m.conv2(F.relu(a))


def no_grad_around_the_relu(m: Any, x: Tensor) -> Any:
    a = m.conv1(x)
    with torch.no_grad():
        a = F.relu(a)
    return x + m.conv2(a)


def asked_by_a_function(m: Any, x: Tensor) -> Any:
    return x + m.conv2(Double.apply(F.relu(m.conv1(x))))


def asks_for_a_gradient(m: Any, x: Tensor) -> Any:
    a = F.relu(m.conv1(x))
    y = x + m.conv2(a)
    return y, torch.autograd.grad(m.conv1(x).sum(), m.conv1.weight)[0] if a.requires_grad else y


def condition_on_the_middle(m: Any, x: Tensor) -> Any:
    a = F.relu(m.conv1(x))
    return x + m.conv2(a) if float(a.mean().detach()) < 1e9 else a


def two_in_a_row(m: Any, x: Tensor) -> Any:
    for _ in range(2):
        x = x + m.conv2(F.relu(m.conv1(x)))
    return x


def after_a_relu(m: Any, x: Tensor) -> Any:
    x = F.relu(m.conv1(x))
    return x + m.conv2(F.relu(m.conv1(x)))


def after_a_relu_in_place(m: Any, x: Tensor) -> Any:
    x = m.relu1(m.conv1(x))
    y = m.conv2(m.relu1(m.conv1(x)))
    y += x
    return y


def three_rectified(m: Any, x: Tensor) -> Any:
    a = F.relu(m.conv1(x))
    b = F.relu(m.conv2(a))
    c = F.relu(m.conv1(b))
    return a + b + c + m.conv2(c)


def chance_between(m: Any, x: Tensor) -> Any:
    return x + m.conv2(F.dropout(F.relu(m.conv1(x)), 0.5))


def slice_and_view(m: Any, x: Tensor) -> Any:
    t = x.transpose(2, 3)
    return (t + m.conv2(F.relu(m.conv1(t)))).transpose(2, 3) + x[:1] + m.conv2(F.relu(m.conv1(x[:1])))


def without_batch(m: Any, x: Tensor) -> Any:
    return x[0] + m.conv2(F.relu(m.conv1(x[0])))


def broadcast(m: Any, x: Tensor) -> Any:
    return x[:1] + m.conv2(F.relu(m.conv1(x)))


def sum_of_a_list(m: Any, x: Tensor) -> Any:
    return sum([x, m.conv2(F.relu(m.conv1(x)))]) + sum([m.conv2(F.relu(m.conv1(x))), x])


FORWARDS = [
    middle_is_returned,
    middle_is_used,
    first_is_used,
    in_place_seen_by_another_name,
    in_place_without_its_result,
    in_place_after_it_was_read,
    twice_the_first,
    one_convolution_twice,
    of_what_is_not_x,
    map_in_place,
    sum_into_the_map,
    weight_in_place,
    no_grad_around_the_first,
    no_grad_around_the_relu,
    asked_by_a_function,
    asks_for_a_gradient,
    condition_on_the_middle,
    two_in_a_row,
    after_a_relu,
    after_a_relu_in_place,
    three_rectified,
    chance_between,
    slice_and_view,
    without_batch,
    broadcast,
    sum_of_a_list,
]

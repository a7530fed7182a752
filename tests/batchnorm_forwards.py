"""What a forward may do between convolutions and their normalisations: on the plain module and on the converted one."""

from typing import Any

import torch
import torch.nn.functional as F
from swap_checks import Double
from torch import Tensor


def convolution_is_returned(m: Any, x: Tensor) -> Any:
    a = m.conv1(x)
    return m.conv2(m.bn1(a)), a.detach()


def convolution_is_used(m: Any, x: Tensor) -> Any:
    a = m.conv1(x)
    return m.conv2(m.bn1(a)) * a


def convolution_is_used_first(m: Any, x: Tensor) -> Any:
    a = m.conv1(x)
    b = a.sigmoid()
    return m.conv2(m.bn1(a)) * b


def convolution_in_place(m: Any, x: Tensor) -> Any:
    a = m.conv1(x)
    b = m.bn1(a)
    a.mul_(2)
    return m.conv2(b.detach()) + a


def convolution_is_added_first(m: Any, x: Tensor) -> Any:
    a = m.conv1(x)
    y = F.relu(a + x)
    b = m.bn1(a)
    if b.requires_grad:
        b.register_hook(lambda g: g * 2)
    return m.conv2(b) + y


def normalised_twice(m: Any, x: Tensor) -> Any:
    return m.conv2(m.bn2(m.bn1(m.conv1(x))))


def normalised_in_two_ways(m: Any, x: Tensor) -> Any:
    a = m.conv1(x)
    return m.conv2(m.bn1(a)) + m.bn2(a) + a


def normalised_and_used(m: Any, x: Tensor) -> Any:
    a = m.bn1(m.conv1(x))
    return m.bn2(m.conv2(a)) + a + x


def statistics_in_between(m: Any, x: Tensor) -> Any:
    a = m.bn1(m.conv1(x))
    m.bn1.running_mean.add_(1)
    b = m.conv2(a)
    m.bn1.running_mean.sub_(1)
    return b.detach()


def weight_in_between(m: Any, x: Tensor) -> Any:
    a = m.bn1(m.conv1(x))
    with torch.no_grad():
        m.bn1.weight.mul_(2)
        m.conv1.weight.mul_(3)
    return m.conv2(a).detach()


def mode_in_between(m: Any, x: Tensor) -> Any:
    a = m.bn1(m.conv1(x))
    m.bn1.train()
    b = m.bn1(m.conv1(x))
    m.bn1.eval()
    return (m.conv2(a) + m.conv2(b)).detach()


def without_gradients_for_one(m: Any, x: Tensor) -> Any:
    a = m.conv1(x)
    with torch.no_grad():
        a = m.bn1(a)
    return m.conv2(a)


def by_function(m: Any, x: Tensor) -> Any:
    a = F.batch_norm(m.conv1(x), m.bn1.running_mean, m.bn1.running_var)
    b = F.batch_norm(m.conv2(a), m.bn2.running_mean, m.bn2.running_var, eps=0.25, weight=m.bn2.weight, training=False)
    return F.batch_norm(b, None, None, training=True)


def asked_by_a_function(m: Any, x: Tensor) -> Any:
    return m.conv2(Double.apply(m.bn1(m.conv1(x)))) + x


def gradient_of_the_middle(m: Any, x: Tensor) -> Any:
    a = m.conv1(x)
    b = m.bn1(a)
    if b.requires_grad:
        b.register_hook(lambda g: g * 2)
    return m.conv2(b)


def added_in_place(m: Any, x: Tensor) -> Any:
    a = m.bn1(m.conv1(x))
    a += x
    return m.bn2(m.conv2(a))


def rectified_in_place(m: Any, x: Tensor) -> Any:
    a = m.bn1(m.conv1(x))
    F.relu(a, inplace=True)
    return x + m.bn2(m.conv2(a))


def three_in_a_row(m: Any, x: Tensor) -> Any:
    x = F.relu(m.bn1(m.conv1(x)))
    a = m.bn2(m.conv2(x))
    return x + m.bn2(m.conv1(F.relu(a)))


FORWARDS = [
    convolution_is_returned,
    convolution_is_used,
    convolution_is_used_first,
    convolution_in_place,
    convolution_is_added_first,
    normalised_twice,
    normalised_in_two_ways,
    normalised_and_used,
    statistics_in_between,
    weight_in_between,
    mode_in_between,
    without_gradients_for_one,
    by_function,
    asked_by_a_function,
    gradient_of_the_middle,
    added_in_place,
    rectified_in_place,
    three_in_a_row,
]

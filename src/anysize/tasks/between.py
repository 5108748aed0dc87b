"""How far the logits of two networks, or of one at two sizes, lie apart. Plain functions of the logits.

loss = softmax_divergence(student, teacher.detach(), temperature=2.0).mean()     # one class an image, or a pixel
"""

import torch.nn.functional as F
from torch import Tensor


def softmax_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of the softmax of logits (N, K, ...) from that of a teacher: (N, ...).

    With p = softmax(teacher / T) and q = softmax(student / T) it is T^2 sum_k p_k (log p_k - log q_k): the square keeps
    gradients as large as those of the targets (Hinton, Vinyals, Dean, arXiv 1503.02531, section 2).

    >>> import torch
    >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, torch.log(torch.tensor(3.0))]])
    >>> softmax_divergence(student, teacher)  # 1/4 log(1/2) + 3/4 log(3/2)
    tensor([0.1308])
    """
    log_q = F.log_softmax(student.float() / temperature, 1)
    log_p = F.log_softmax(teacher.float() / temperature, 1)
    return (log_p.exp() * (log_p - log_q)).sum(1) * temperature**2


def binary_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergences of the labels' probabilities from a teacher's, summed over the labels: (N,).

    Logits are (N, K); with p = sigmoid(teacher / T) and q = sigmoid(student / T) a label costs
    T^2 (p log(p / q) + (1 - p) log((1 - p) / (1 - q))).

    >>> import torch
    >>> binary_divergence(torch.zeros(1, 2), torch.tensor([[0.0, torch.log(torch.tensor(3.0))]]))
    tensor([0.1308])
    """
    student, teacher = student.float() / temperature, teacher.float() / temperature
    p = teacher.sigmoid()
    true = p * (F.logsigmoid(teacher) - F.logsigmoid(student))
    false = (1 - p) * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return (true + false).sum(1) * temperature**2


def smooth_l1(one: Tensor, other: Tensor) -> Tensor:
    """Smooth L1 distance of logits (N, K, ...), the mean over the classes: (N, ...) (ResFormer, arXiv 2212.00776).

    >>> import torch
    >>> smooth_l1(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 3.0]]))  # 1/2 and 3 - 1/2
    tensor([1.5000])
    """
    return F.smooth_l1_loss(one.float(), other.float(), reduction="none").mean(1)

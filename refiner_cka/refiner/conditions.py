"""When fast evaluation may be taken: only where nobody could tell it from the modules themselves.

Not in training, not where gradients are needed, not under tracing and compilation, and not where a part
has a hook, was replaced, or had its `forward` replaced. Each mechanism of each block asks on its own.
"""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module

# On a GPU, folding one refinement costs some 25 launches of tiny kernels, 0.1 ms in all; it saves 4
# of 11 launches over whole maps and 6 of 15 passes over the expanded ones, 0.1 ms at 1 TB/s for
# 16 MiB of them. The bar is at four times that, for devices with faster memory; below it the plain
# path is taken.
DEVICE_WORTHWHILE = 64 * 2**20

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

# To be asked in an `if` of its own: scripting compiles what stands beside it in an `and`.
is_scripting = torch.jit.is_scripting  # type: ignore[attr-defined]


def allowed(mechanism: nn.Module, *tensors: Tensor | None) -> bool:
    """Whether a mechanism's `fast_evaluation` is on and this is plain evaluation.

    That is: eager, without gradients or global hooks, on ordinary tensors.
    """
    if not mechanism.fast_evaluation or mechanism.training or torch.compiler.is_compiling():
        return False
    if torch._C._get_tracing_state() is not None:  # torch.jit.trace
        return False
    # Not all kernels follow torch.func and forward-mode differentiation.
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    if any(getattr(torch_module, "_global" + name) for name in HOOKS):
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    if not all(isinstance(tensor, Tensor) for tensor in given):  # a symbolic trace
        return False
    if not torch.is_grad_enabled():
        return True
    return not any(tensor.requires_grad for tensor in (*given, *mechanism.parameters()))


def as_built(part: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a part still does what its kind was built to do, in evaluation; its weights may be any.

    Exact types: a subclass, a parametrised or a quantised module may compute something else.
    """
    if type(part) not in kinds or part.training or "forward" in vars(part):
        return False
    if any(getattr(part, name) for name in HOOKS):
        return False
    if isinstance(part, nn.BatchNorm2d):
        return all(tensor is not None for tensor in (part.running_mean, part.weight, part.bias))
    return True


def worthwhile(like: Tensor, folded_bytes: int) -> bool:
    """Whether folding saves more than it costs, for intermediates of so many bytes."""
    return like.device.type == "cpu" or folded_bytes >= DEVICE_WORTHWHILE

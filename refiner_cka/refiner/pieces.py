"""Working through a batch a few images at a time, so that what one step writes the next finds in cache."""

from collections.abc import Callable, Sequence

from torch import Tensor

# Bytes of the intermediates of one piece. On a CPU a share of the last-level cache: one image of a
# 224-pixel model. Other devices want large pieces: whole batches, few kernels.
CPU_PIECE = 16 * 2**20
DEVICE_PIECE = 512 * 2**20


def in_pieces(
    step: Callable[[slice], tuple[Tensor, ...]], like: Tensor, image_bytes: int
) -> Sequence[Tensor]:
    """The results of `step` for a whole batch, from those for its pieces.

    Args:
        step: gives results for the images of a slice, each along its first axis.
        like: a tensor of the batch; says its length and where the work is done.
        image_bytes: bytes of the intermediates of one image.
    """
    batch = len(like)
    budget = CPU_PIECE if like.device.type == "cpu" else DEVICE_PIECE
    size = max(1, budget // max(1, image_bytes))
    if size >= batch:  # also for an empty batch, one empty piece: its results have a shape
        return step(slice(0, batch))
    wholes: list[Tensor] = []
    for start in range(0, batch, size):
        piece = slice(start, min(start + size, batch))
        results = step(piece)
        wholes = wholes or [result.new_empty((batch, *result.shape[1:])) for result in results]
        for whole, result in zip(wholes, results, strict=True):
            whole[piece] = result
        del results, result  # or they would take up memory beside the next piece
    return wholes

"""Texts without their padding: tokenwise layers compute on the tokens only, and attention alone is padded.

All indices are made on the CPU, from lengths that the host has, so that no kernel waits for a size
from the device.

Legend: B texts, L tokens of the longest, T tokens of all texts, D width.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class PackedTexts(NamedTuple):
    """The tokens of a batch of texts, one after the other, and where they lie in the padded batch (B, L).

    It is a tuple of tensors, which DistributedDataParallel and torch.compile take as they are.
    """

    tokens_T: Tensor
    """Token ids."""
    positions_T: Tensor
    """Position of each token in its text."""
    slots_T: Tensor
    """Index of each token in the flattened padded batch."""
    tokens_of_slots_BL: Tensor
    """Index of the token (of T) in each slot of the padded batch; a slot of padding has the index of its text's last."""
    is_padding_BL: Tensor
    """True where a slot holds no token."""
    ends_B: Tensor
    """Index of each text's last token, whose feature is the text's."""
    texts_T: Tensor
    """Index of each token's text."""
    is_inner_T: Tensor
    """True where a token is not its text's last."""

    @property
    def token_count(self) -> int:
        """Number of tokens of all texts."""
        return len(self.tokens_T)

    @property
    def padded_count(self) -> int:
        """Texts x squared length of the longest, to which attention is padded."""
        return self.is_padding_BL.numel() * self.is_padding_BL.shape[1]

    def to(self, device: torch.device) -> "PackedTexts":
        """Return the same texts on a device; from pinned memory the copies do not wait."""
        return PackedTexts(*(tensor.to(device, non_blocking=True) for tensor in self))


def pack_texts(tokens_BL: Tensor) -> PackedTexts:
    """Leave out what follows the end-of-text token of each text, which has the highest id of its row.

    Args:
        tokens_BL: token ids on the CPU; of equal highest ids, the first is the end.
    """
    lengths_B = tokens_BL.argmax(dim=1) + 1
    B, L = len(tokens_BL), int(lengths_B.max()) if len(tokens_BL) else 0
    columns_L = torch.arange(L)
    is_padding_BL = columns_L >= lengths_B[:, None]
    slots_T = (~is_padding_BL).flatten().nonzero()[:, 0]
    ends_B = lengths_B.cumsum(0) - 1
    starts_B = ends_B + 1 - lengths_B
    texts_T = torch.repeat_interleave(torch.arange(B), lengths_B)
    positions_T = slots_T - texts_T * L
    return PackedTexts(
        tokens_T=tokens_BL[:, :L].flatten()[slots_T],
        positions_T=positions_T,
        slots_T=slots_T,
        tokens_of_slots_BL=torch.minimum(starts_B[:, None] + columns_L, ends_B[:, None]),
        is_padding_BL=is_padding_BL,
        ends_B=ends_B,
        texts_T=texts_T,
        is_inner_T=positions_T + 1 < lengths_B[texts_T],
    )


def pack_chunks(tokens_BL: Tensor, rows: int | None) -> list[PackedTexts]:
    """Pack `rows` texts at a time; None: all together."""
    return [pack_texts(chunk) for chunk in split_rows(tokens_BL, rows)]


def split_rows(tokens_BL: Tensor, rows: int | None) -> Iterator[Tensor]:
    """Yield `rows` rows at a time; None: all together, also where there is none."""
    rows = rows or max(len(tokens_BL), 1)
    for start in range(0, max(len(tokens_BL), 1), rows):
        yield tokens_BL[start : start + rows]


class _SelectRows(torch.autograd.Function):
    """Rows of a matrix of which each counts at most once: the gradient of the selection is a selection as well.

    torch's own gradient adds rows up, which on a GPU is either slow or differs in its last bits
    from run to run.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, index: Tensor, back: Tensor, is_absent: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(back, is_absent)
        return x.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None, None, None]:
        back, is_absent = ctx.saved_tensors
        gradient = gradients[0].index_select(0, back)
        return gradient if is_absent is None else gradient.masked_fill_(is_absent[:, None], 0), None, None, None


def pad(x_TD: Tensor, texts: PackedTexts) -> Tensor:
    """Map (T, D) to (B, L, D). A slot of padding holds the row of its text's last token, and passes no gradient on."""
    padded = _SelectRows.apply(x_TD, texts.tokens_of_slots_BL.flatten(), texts.slots_T, None)
    return padded.view(*texts.tokens_of_slots_BL.shape, x_TD.shape[1])  # pyright: ignore[reportOptionalMemberAccess]


def unpad(x_BLD: Tensor, texts: PackedTexts) -> Tensor:
    """Map (B, L, D) to (T, D)."""
    back, is_padding = texts.tokens_of_slots_BL.flatten(), texts.is_padding_BL.flatten()
    return _SelectRows.apply(x_BLD.flatten(0, 1), texts.slots_T, back, is_padding)  # pyright: ignore[reportReturnType]


def keep_patches(x_BLD: Tensor, kept_BK: Tensor) -> Tensor:
    """Map (B, L, D) to the rows at `kept_BK` of each image, in ascending order: (B, K, D)."""
    (B, L), K, device = x_BLD.shape[:2], kept_BK.shape[1], kept_BK.device
    image_B1, column_BL = torch.arange(B, device=device)[:, None], torch.arange(L, device=device).repeat(B, 1)
    at_BL = torch.searchsorted(kept_BK.contiguous(), column_BL).clamp_(max=K - 1)
    is_left_out_BL = kept_BK.gather(1, at_BL) != column_BL
    rows, back = (kept_BK + image_B1 * L).flatten(), (at_BL + image_B1 * K).flatten()
    kept = _SelectRows.apply(x_BLD.flatten(0, 1), rows, back, is_left_out_BL.flatten())
    return kept.view(B, K, -1)  # pyright: ignore[reportOptionalMemberAccess]


def select_ends(x_TD: Tensor, texts: PackedTexts) -> Tensor:
    """Map (T, D) to the rows of the texts' last tokens (B, D)."""
    return _SelectRows.apply(x_TD, texts.ends_B, texts.texts_T, texts.is_inner_T)  # pyright: ignore[reportReturnType]

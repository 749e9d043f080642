"""What single operations and memory accesses cost, and how many accesses an operation makes."""

from __future__ import annotations

from dataclasses import dataclass

LOCAL_PER_MAC = 2
"""Buffer accesses of a multiply-accumulate: weight and input; the sum stays in a register."""
LOCAL_PER_AC = 3
"""Buffer accesses of a spike's accumulate: weight, and the membrane read and written back."""
WORD = 32
"""Bits of a weight, membrane or ANN activation; a spike takes one bit."""


@dataclass(frozen=True)
class Costs:
    """Energy of single operations and of accesses to 32-bit words, in pJ.

    Source: Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014,
    45 nm, 0.9 V: float32 multiplication 3.7, addition 0.9; integer addition of 32 bits 0.1,
    multiplication of 8 bits 0.2; reading 64 bits from a cache of 8 KB 10, 32 KB 20, 1 MB 100, from
    DRAM 1300 to 2600. A 32-bit word is charged half of that.

    Attributes:
        mac: multiply and add.
        integer_mac: of 8 bits, added up in 32.
        local: buffer beside the arithmetic (8 KB).
        main: memory of weights, membranes and activations (1 MB on the chip; 650 for DRAM).
    """

    mac: float = 4.6
    accumulate: float = 0.9
    multiply: float = 3.7
    integer_add: float = 0.1
    integer_mac: float = 0.3
    local: float = 5.0
    main: float = 50.0

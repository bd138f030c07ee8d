"""The reference interpreter computes what the running kernel computes.

PYBPFVM_ORACLE_PROGRAMS is the number of generated programs (the closing run takes 10000),
PYBPFVM_ORACLE_SEED the first seed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pybpfvm import bpfsys
from pybpfvm.fuzz.visible import GENERATED_ROWS, generate, rows_of
from pybpfvm.isa.opcodes import AluOp
from pybpfvm.isa.semantics import CONCRETE_ALU
from tests.support.kernel_oracle import KernelOracle, difference

pytestmark = pytest.mark.kernel_bpf

PROGRAMS = int(os.environ.get("PYBPFVM_ORACLE_PROGRAMS", "10000"))
FIRST_SEED = int(os.environ.get("PYBPFVM_ORACLE_SEED", "0"))


@pytest.fixture(scope="module")
def oracle() -> Iterator[KernelOracle]:
    reason = bpfsys.available()
    if reason is not None:
        pytest.skip(reason)
    with KernelOracle() as made:
        yield made


def test_generated_programs_end_alike(oracle: KernelOracle) -> None:
    refused: list[str] = []
    agreements = 0
    unseen = set(GENERATED_ROWS)
    for seed in range(FIRST_SEED, FIRST_SEED + PROGRAMS):
        generated = generate(seed)
        kernel = oracle.kernel(generated)
        if isinstance(kernel, str):
            refused.append(f"seed {seed}: {kernel}")
            continue
        ours = oracle.interpreter(generated)
        assert ours == kernel, difference(generated, kernel, ours)
        agreements += 1
        unseen -= rows_of(generated.program)
    print(f"{PROGRAMS} programs, {agreements} accepted and agreed on, {len(refused)} refused")
    # The generator's aim is programs that kernels take: otherwise nothing is compared.
    assert len(refused) <= PROGRAMS // 50, "\n".join(refused[:5])
    assert PROGRAMS < 500 or not unseen


@pytest.mark.parametrize("op", [AluOp.XOR, AluOp.SMOD, AluOp.ARSH, AluOp.MOVSX16, AluOp.BE32])
def test_a_wrong_operation_does_not_stay_hidden(
    oracle: KernelOracle, op: AluOp, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = CONCRETE_ALU[op]
    monkeypatch.setitem(CONCRETE_ALU, op, lambda a, b, width: right(a, b, width) ^ 1)
    for seed in range(200):
        generated = generate(seed)
        kernel = oracle.kernel(generated)
        if not isinstance(kernel, str) and oracle.interpreter(generated) != kernel:
            return
    pytest.fail(f"200 programs did not notice a wrong {op.value}")

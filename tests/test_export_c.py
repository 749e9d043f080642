"""C99: real compilers build what is exported, and its self-test finds the engine's bits."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import event_networks
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runtimes import compiler_or_skip

import snn_rl
from snn_rl.agents.exchange.export import recipe_of
from snn_rl.agents.exchange.recording import record
from snn_rl.core.network import Network
from snn_rl.errors import SnnRlError
from snn_rl.exchange.c_files import self_test, write_c
from snn_rl.exchange.c_plan import slimmed
from snn_rl.exchange.c_tables import Recipe
from snn_rl.exchange.golden import Trace
from snn_rl.exchange.one_frame import OneFrame

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
SANITISED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
FAST = ("-O3", "-march=native")
COMPILERS = ("gcc", "clang")
CARTPOLE = "zoo:CartPole-v1/T1"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The agent.c of a shipped agent, written once."""

    @cache
    def export(name: str, frames: int = 300) -> Path:
        agent, path = snn_rl.load_agent(name), tmp_path_factory.mktemp("c") / "agent.c"
        return write_c(recipe_of(agent), record(agent, frames), path)[0]

    return export


@pytest.fixture(scope="module")
def cartpole(exported: Callable[..., Path]) -> Path:
    """The folder of agent.c, its header and trace."""
    return exported(CARTPOLE).parent


def passes(path: Path, compiler: str, *flags: str) -> None:
    passed, said = self_test(path, [compiler_or_skip(compiler)], (*STRICT, *flags))
    assert (passed, said.split(":")[0]) == (True, "self-test passed"), said


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("flags", [("-O0",), ("-O3",), FAST, SANITISED], ids=" ".join)
@pytest.mark.parametrize("name", [CARTPOLE, "zoo:PositionOnlyCartPole-v1/T3"])
def test_an_agent_of_vectors_is_exact(
    exported: Callable[..., Path], name: str, flags: tuple[str, ...], compiler: str
) -> None:
    passes(exported(name), compiler, *flags)


@pytest.mark.parametrize(
    ("name", "compiler", "flags"),
    [
        ("zoo:PongNoFrameskip-v4/T1", "gcc", FAST),
        ("zoo:PongNoFrameskip-v4/T1-no-carry", "clang", SANITISED),
        ("zoo:PixelCartPole-v1/T1", "gcc", ("-O0",)),
    ],
)
def test_an_agent_of_pixels_is_exact(
    exported: Callable[..., Path], name: str, compiler: str, flags: tuple[str, ...]
) -> None:
    passes(exported(name), compiler, *flags)


def trace_of(network: Network, timesteps: int, carry: bool, seed: int) -> Trace:
    """What torch makes of a few frames and of two episodes."""
    frames = torch.from_numpy(event_networks.observations(network, 12, 1, seed))
    starts = torch.zeros(12, 1, dtype=torch.bool)
    starts[0] = starts[7] = True
    with torch.no_grad():
        q, state = network(
            frames, network.initial_state(1), starts, timesteps=timesteps, carry_membrane=carry
        )
    one = OneFrame(network, timesteps, carry=carry)
    kept = {n: t.numpy() for n, t in zip(one.state_names, one.kept(state), strict=True)}
    begun = dict(zip(one.state_names, (t.numpy() for t in one.example(1)[1]), strict=True))
    return Trace(frames[:, 0].numpy(), starts[:, 0].numpy(), q[:, 0].numpy(), begun, kept)


@pytest.mark.parametrize("compiler", COMPILERS)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    network=event_networks.networks(),
    timesteps=st.integers(1, event_networks.MOST_TIMESTEPS),
    carry=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_random_networks_are_exact(
    compiler: str, network: Network, timesteps: int, carry: bool, seed: int, tmp_path: Path
) -> None:
    plan = event_networks.plan_of(network)
    trace = trace_of(network, timesteps, carry, seed)
    path = write_c(Recipe(plan, timesteps, carry), trace, tmp_path / "agent.c")[0]
    passes(path, compiler, *SANITISED)


DRIVER = """
#include "agent.h"
int main(void)
{
    static snn_agent agent, other;
    float frame[SNN_INPUTS] = {0.1f, -0.2f, 0.03f, 0.4f}, q[SNN_ACTIONS], p[SNN_ACTIONS];
    snn_state kept;
    snn_reset(&agent);
    for (int n = 0; n < 20; n++, frame[0] += 0.05f)
        snn_act(&agent, frame, q);
    kept = agent.state;
    int action = snn_act(&agent, frame, q);
    if (q[action] < q[!action]) return 1;
    if (snn_act(&agent, frame, p) < 0 || (p[0] == q[0] && p[1] == q[1])) return 2; /* remembers */
    snn_reset(&other);
    other.state = kept;
    if (snn_act(&other, frame, p) != action || p[0] != q[0] || p[1] != q[1]) return 3;
    frame[2] = 0.0f / *(volatile float *)&(float){0.0f};
    kept = other.state;
    if (snn_act(&other, frame, p) != -1 || p[0] != q[0]) return 4;
    for (int n = 0; n < SNN_NEURONS; n++)
        if (kept.membranes[n] != other.state.membranes[n]) return 5;
    return 0;
}
"""


def test_the_state_is_the_caller_s(cartpole: Path, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(DRIVER)
    program = str(tmp_path / "main")
    sources = [str(cartpole / "agent.c"), str(tmp_path / "main.c")]
    line = [compiler_or_skip("gcc"), *STRICT, *SANITISED, f"-I{cartpole}", *sources, "-o", program]
    subprocess.run(line, check=True)
    assert subprocess.run([program]).returncode == 0


@pytest.mark.parametrize("compiler", COMPILERS)
def test_it_needs_no_library(cartpole: Path, compiler: str, tmp_path: Path) -> None:
    compiled = str(tmp_path / "agent.o")
    flags = [*STRICT, "-O3", "-ffreestanding", "-c", str(cartpole / "agent.c"), "-o", compiled]
    subprocess.run([compiler_or_skip(compiler), *flags], check=True)
    listed = subprocess.run(["nm", compiled], capture_output=True, text=True, check=True).stdout
    kinds: dict[str, set[str]] = {}
    for line in listed.splitlines():
        *_, kind, name = line.split()
        kinds.setdefault(kind, set()).add(name)
    assert kinds.pop("U", set()) <= {"memcpy", "memmove", "memset"}
    assert kinds.pop("T") == {"snn_act", "snn_reset"}
    assert kinds.keys() <= {"t", "r"}, "functions and constants, no variables"


def broken(folder: Path, to: Path, file: str, old: str, new: str) -> Path:
    """A copy of an export in which one text is another."""
    for name in ("agent.c", "agent.h", "agent_trace.h"):
        shutil.copy(folder / name, to)
    text = (to / file).read_text()
    assert old in text
    (to / file).write_text(text.replace(old, new, 1))
    return to / "agent.c"


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (
            "agent.c", "float u = decayed + current[n]",
            "float u = __builtin_fmaf(leak[n], membrane[n], current[n]); (void)decayed",
            "compiled with fused multiply-adds",
        ),
        ("agent.c", "u - threshold[n] * (float)fires", "fires ? 0.0f : u", "Q-values"),
        ("agent.c", "snn_reset(&agent);", "if (n == 0) snn_reset(&agent);", "Q-values"),
        ("agent_trace.h", "trace_q[] = {\n0x", "trace_q[] = {\n1+0x", "frame 0 has other Q-values"),
        ("agent_trace.h", "trace_membranes[] = {\n0x", "trace_membranes[] = {\n1+0x", "membranes"),
    ],
)  # fmt: skip
def test_the_self_test_notices_every_difference(
    exported: Callable[..., Path], file: str, old: str, new: str, said: str, tmp_path: Path
) -> None:
    whole = exported("zoo:PositionOnlyCartPole-v1/T1", 700).parent  # two episodes
    path = broken(whole, tmp_path, file, old, new)
    flags = ("-O2", "-Wl,--no-as-needed", "-lm")
    passed, found = self_test(path, [compiler_or_skip("gcc")], flags)
    assert not passed and said in found


@pytest.mark.parametrize("compiler", COMPILERS)
def test_fused_operations_pass_exactly_or_fail(cartpole: Path, compiler: str) -> None:
    flags = (*FAST, "-ffp-contract=fast")
    passed, said = self_test(cartpole / "agent.c", [compiler_or_skip(compiler)], flags)
    assert passed or "compiled with fused multiply-adds" in said


@pytest.mark.parametrize("compiler", COMPILERS)
def test_fast_math_does_not_compile(cartpole: Path, compiler: str) -> None:
    with pytest.raises(SnnRlError, match="fast-math changes Q-values"):
        self_test(cartpole / "agent.c", [compiler_or_skip(compiler)], ("-O2", "-ffast-math"))


def test_the_header_says_how_much_memory_it_takes(cartpole: Path) -> None:
    plan = slimmed(recipe_of(snn_rl.load_agent(CARTPOLE)).plan)
    header = (cartpole / "agent.h").read_text()
    numbers = dict(re.findall(r"#define (SNN_\w+) (\d+)", header))
    arrays = (plan.weights, plan.whole, plan.tables)
    stored = sum(array.nbytes for array in arrays) + 4 * plan.program.size + 4 * 4
    assert int(numbers["SNN_CONSTANTS"]) == stored
    assert 4 * plan.neurons < int(numbers["SNN_MEMORY"]) < 16 * plan.neurons
    assert numbers["SNN_MEMBRANES_HIDDEN1"] == "0" and numbers["SNN_MEMBRANES_HIDDEN2"] == "128"


def test_what_torch_runs_gives_the_same_files(tmp_path: Path) -> None:
    event, other = (snn_rl.load_agent(CARTPOLE, engine) for engine in ("event", "torch"))
    trace = record(event, 5)
    first = write_c(recipe_of(event), trace, tmp_path / "a" / "agent.c")
    second = write_c(recipe_of(other), trace, tmp_path / "b" / "agent.c")
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in second]
    with torch.no_grad():
        next(other.policy.network.parameters()).mul_(1.01)
    with pytest.raises(SnnRlError, match="save the agent"):
        recipe_of(other)


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = snn_rl.load_agent(CARTPOLE)
    with pytest.raises(SnnRlError, match="stage ann is no spiking network"):
        snn_rl.export(snn_rl.load_agent("zoo:CartPole-v1/ann"), tmp_path / "a.c", "c")
    with pytest.raises(SnnRlError, match=r"at T = 99: the read-out is exact for T from 1 to 21"):
        Recipe(recipe_of(agent).plan, 99, True)
    with pytest.raises(SnnRlError, match=r"should end in \.c"):
        snn_rl.export(agent, tmp_path / "a.cpp", "c")
    with pytest.raises(SnnRlError, match="other characters than letters"):
        snn_rl.export(agent, tmp_path / 'a "b.c', "c", frames=2)
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    with pytest.raises(SnnRlError, match="no C compiler 'no-such-compiler'"):
        snn_rl.export(agent, tmp_path / "a.c", "c", check=True)
    monkeypatch.setenv("CC", "gcc '")
    with pytest.raises(SnnRlError, match="ends within quotes"):
        snn_rl.export(agent, tmp_path / "a.c", "c", check=True)
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SnnRlError, match="install gcc or clang"):
        snn_rl.export(agent, tmp_path / "a.c", "c", check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_check_without_a_compiler_writes_nothing(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    order = ("export", "--agent", CARTPOLE, "--to", "c", "--frames", "5", "--out", "agent.c")
    status, out, err = call(*order, "--check")
    assert (status, out) == (2, "") and not list(tmp_path.iterdir())
    assert err.splitlines()[-1] == (
        "error: there is no C compiler: install gcc or clang, or set CC"
    )
    assert call(*order)[0] == 0  # without a check none is needed


def test_the_command(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("CC", compiler_or_skip("clang"))
    arguments = ("export", "--agent", CARTPOLE, "--to", "c", "--frames", "20")
    status, out, err = call(*arguments, "--out", "agent.c", "--check")
    assert status == 0
    assert out.split() == ["agent.c", "agent.h", "agent_trace.h", "agent.trace.npz"]
    assert "C, clang: exact: 20 frames with the same Q-values, bit for bit" in err
    with np.load(tmp_path / "agent.trace.npz", allow_pickle=False) as kept:
        assert len(kept["q"]) == 20

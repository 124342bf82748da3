"""Which cases there are: derived from the registered operators, and left out where the measured version lacks one."""

import sys

import pytest
import torch

from benchmarks import cases as cases_module
from benchmarks.__main__ import main
from benchmarks.cases import all_cases
from benchmarks.cases.linear_attention import by_flex_attention, task_pairs
from benchmarks.cases.shapes import CHANNELS, case_set, nyud
from benchmarks.harness.case import Selection
from benchmarks.report.pages import BLOCKS
from seqca.ops.shared.operator import OPERATORS

QUICK = case_set("quick", "cpu")


def test_a_run_is_narrowed_by_parts_of_names_and_keeps_the_reference() -> None:
    selection = Selection(operators=("linear",), shapes=("tokens/1024",), providers=("cuda",))
    (case,) = all_cases(QUICK, selection)
    assert case.name == "linear_attention/tokens/1024/fp32/both"
    assert [provider.name for provider in selection.of(case).available] == ["reference"]


def test_names_of_cases_are_unique_in_every_set() -> None:
    for device in ("cpu", "cuda"):
        for name in ("quick", "standard", "full"):
            cases = [case.name for case in all_cases(case_set(name, device))]
            assert len(cases) == len(set(cases)) > 10


def test_the_full_set_exchanges_between_two_to_five_tasks_at_every_scale() -> None:
    for device in ("cpu", "cuda"):
        cases = all_cases(case_set("full", device), Selection(("linear_attention",), ("tasks",), (), ("both",)))
        found = {(case.sizes["channels"], case.sizes["tasks"]) for case in cases if "pascal" not in case.shape}
        assert {(channels, tasks) for channels in CHANNELS for tasks in (2, 3, 4, 5)} <= found


def test_every_registered_operator_has_cases_and_every_case_a_table() -> None:
    measured = {case.operator for case in all_cases(case_set("standard", "cpu"))}
    assert measured == {"network", "attention_schemes"} | OPERATORS.keys()
    assert measured - OPERATORS.keys() < BLOCKS.keys()
    for operator in OPERATORS:
        assert f"### `{operator}`" in BLOCKS["operators"]({})


def test_providers_are_left_out_by_parts_of_their_names_and_the_baseline_stays() -> None:
    (case,) = all_cases(case_set("full", "cpu"), Selection(("linear_attention",), ("tokens/1024",)))
    names = [provider.name for provider in Selection(without=("reference", "cuda")).of(case).available]
    assert "reference" in names
    assert not any(name.startswith("reference, ") for name in names)


def test_linear_attention_is_what_flex_attention_computes_of_logarithms() -> None:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.rand(2, n, 18, generator=draw, dtype=torch.float64) for n in (20, 30, 30))
    expected = OPERATORS["linear_attention"].reference(q, k, v)
    torch.testing.assert_close(by_flex_attention(q, k, v), expected)
    torch.testing.assert_close(by_flex_attention([q], [k], [v]), [expected])


def test_flex_attention_takes_part_on_gpus_where_operators_are_compiled() -> None:
    for device, part in (("cuda", "available"), ("cpu", "refused")):
        case = task_pairs(nyud(1), 3, 4, "fp32", "both", case_set("full", device))
        available, unavailable = case.providers()
        found = {"available": [provider.name for provider in available], "refused": [*unavailable]}
        assert "flex_attention" in found[part]


def without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version of seqca in which an operator is not registered yet."""
    monkeypatch.setattr(cases_module, "OPERATORS", {key: op for key, op in OPERATORS.items() if key != name})


def test_a_version_without_an_operator_lacks_its_cases_alone_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without("softplus", monkeypatch)
    expected = {"network", "attention_schemes"} | OPERATORS.keys() - {"softplus"}
    assert {case.operator for case in all_cases(QUICK)} == expected
    assert main(["list", "--quick", "--device", "cpu", "--op", "upsampled_loss"]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first == "left out softplus, which this version of seqca lacks: no such operator is registered"
    assert any(line.startswith("upsampled_loss/") for line in others)
    assert main(["run", "--quick", "--device", "cpu", "--op", "softplus"]) == 2
    output = capsys.readouterr()
    assert output.out.startswith("left out softplus")
    assert "selection: got names of no case" in output.err


def test_a_version_without_a_module_that_cases_need_lacks_those_cases_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "seqca.losses", None)
    monkeypatch.delitem(sys.modules, "benchmarks.cases.network", raising=False)
    monkeypatch.delattr(cases_module, "network", raising=False)
    left_out = cases_module.modules()[1]
    assert left_out.keys() == {"network"}
    assert "seqca.losses" in left_out["network"]
    assert {case.operator for case in all_cases(QUICK)} == {"attention_schemes"} | OPERATORS.keys()


def test_cases_that_lack_anything_but_seqca_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases_module, "names", lambda: ("no_such_module",))
    with pytest.raises(ImportError, match="no_such_module"):
        list(all_cases(QUICK))

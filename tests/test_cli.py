"""The command `seqca` before any of its subcommands runs."""

import subprocess
import sys
from importlib.metadata import version

import pytest

from seqca.cli import COMMANDS, main


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name}" in text for name in COMMANDS)


def test_no_command_prints_the_usage_and_fails(capsys):
    assert main([]) == 2
    assert "usage: seqca COMMAND" in capsys.readouterr().out


def test_an_unknown_command_is_named_and_fails(capsys):
    assert main(["ift"]) == 2
    assert "unknown command 'ift'" in capsys.readouterr().err


def test_version_is_that_of_the_installed_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"seqca {version('seqca')}"


@pytest.mark.parametrize(("command", "module"), [("fit", "lightning"), ("predict", "PIL")])
def test_a_missing_extra_is_named_with_the_way_to_install_it(command, module):
    script = f"import sys; sys.modules[{module!r}] = None; from seqca.cli import main; sys.exit(main([{command!r}]))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert run.returncode == 1
    assert "pip install '.[train]'" in run.stderr
    assert "Traceback" not in run.stderr


def test_python_dash_m_is_the_command():
    run = subprocess.run([sys.executable, "-m", "seqca", "--help"], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("usage: seqca COMMAND")


def test_explain_loads_neither_lightning_nor_torchmetrics():
    script = (
        "import sys; from seqca.cli import main; status = main(['explain', '--device', 'cpu']);"
        "sys.exit(status or 'lightning' in sys.modules or 'torchmetrics' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert "linear_attention" in run.stdout


@pytest.mark.parametrize(("right", "status"), [(True, 0), (False, 1)])
def test_the_status_of_selftest_says_whether_every_operator_is_right(monkeypatch, right, status):
    monkeypatch.setattr("seqca.selftest", lambda device: right)
    assert main(["selftest"]) == status


def test_a_device_that_is_not_there_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["explain", "--device", "abacus"])
    assert stopped.value.code == 2
    assert "got 'abacus'" in capsys.readouterr().err

"""A plugin of pytest: what failed is told at once, so that a run that is stopped has told it."""

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Prints the name of a test that failed, and the end of its traceback."""
    if report.failed:
        print(f"\nFAILED {report.nodeid}\n" + "\n".join(report.longreprtext.splitlines()[-6:]), flush=True)

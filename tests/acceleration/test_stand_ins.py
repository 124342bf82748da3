"""What is registered is tried on stand-ins."""

from . import test_atrc, test_blocks, test_invpt, test_mti_net, test_sca_mtl
from .teaching import REGISTERED


def test_every_replacement_and_every_kind_that_is_left_has_a_stand_in() -> None:
    code_bases = (test_atrc, test_blocks, test_invpt, test_mti_net, test_sca_mtl)
    assert {each for module in code_bases for each, _ in module.KINDS} == set(REGISTERED)

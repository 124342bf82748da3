"""The page that tells where the time of a training step goes."""

import json
from pathlib import Path

import pytest

from benchmarks.report.profile import kind, page

FOUND = {
    "environment": {"device": "cuda", "gpu": "NVIDIA H200", "torch": "2.11.0", "commit": "0123456789", "dirty": False},
    "dtype": "bf16",
    "batch": 8,
    "matrix rate": 1e12,
    "operations": [["heads", "forward", 3e9], ["heads", "backward", 6e9]],
    "steps": {
        "auto": {
            "seconds": 0.1,
            "kernels": [
                ["heads", "forward", "pyramid_forward_rows", 3, 0.02],
                ["heads", "backward", "pyramid_backward_cells", 4, 0.03],
                ["losses", "forward", "memset32", 5, 0.01],
            ],
        }
    },
}


def test_tells_time_by_part_beside_its_limit_and_by_kind_with_what_no_kernel_fills(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(FOUND))
    found = page([path])
    assert "8 images, bf16; torch 2.11.0; commit 01234567; 1.00 TFLOP/s" in found
    assert "| heads | 20.0 ms | 30.0 ms | 50% | 7 | 9 GFLOP | 9.0 ms |" in found
    assert "| losses | 10.0 ms | 0.0 ms | 10% | 5 | – | – |" in found
    assert "| kernels of `aggregation_head` | 50.0 | 50% | 7 |" in found
    assert "| no kernel | 40.0 | 40% | – |" in found


def test_backends_that_were_replayed_in_turns_stand_beside_each_other(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(FOUND | {"replays": {"auto": [0.2, 0.1, 0.1], "reference": [0.3, 0.3, 0.4]}}))
    found = page([path])
    assert "`seqca` 100.0 ms (3.00 times faster); plain reference 300.0 ms." in found


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("void cudnn::engines_precompiled::nchwToNhwcKernel<__nv_bfloat16>", "changes of memory format in cuDNN"),
        ("sm90_xmma_dgrad_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", "convolutions"),
        ("nvjet_sm90_tst_128x64_64x8_2x1_v_bz_NTT", "products"),
        ("void at::native::elementwise_kernel<128, 4, direct_copy_kernel_cuda>", "copies, casts, concatenations"),
        ("norm_relu_backward_sums", "kernels of `norm_relu`"),
        ("something new", "other kernels of torch"),
    ],
)
def test_a_kernels_name_tells_its_kind(name: str, words: str) -> None:
    assert kind(name) == words

"""Backbones come from timm, with weights from a local file or a clear word why not."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from seqca.models.backbone import create_backbone

NAME = "hrnet_w18_small_v2"


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_pretrained_weights_come_from_a_local_file(tmp_path, ending):
    weights = timm.create_model(NAME).state_dict()
    path = tmp_path / f"weights.{ending}"
    (torch.save if ending == "pth" else save_file)(weights, path)
    backbone = create_backbone(NAME, pretrained=path)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, weights[key]), key


def test_without_a_network_the_error_says_how_to_give_a_file(monkeypatch):
    create = timm.create_model

    def offline(*args, pretrained, **options):
        if pretrained:
            raise OSError("no route to host")
        return create(*args, pretrained=pretrained, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(RuntimeError, match=r"no route to host.*pretrained='/path/to/hrnet_w18_small_v2"):
        create_backbone(NAME, pretrained=True)


def test_a_file_with_other_weights_is_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"^pretrained: got .* without .* keys, .* expected all of hrnet_w18_small_v2"):
        create_backbone(NAME, pretrained=tmp_path / "other.pth")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no file"):
        create_backbone(NAME, pretrained=tmp_path / "nowhere.pth")


def test_a_backbone_with_other_strides_is_refused():
    with pytest.raises(ValueError, match=r"backbone: got .vgg11. with maps at strides .*, expected \(4, 8, 16, 32\)"):
        create_backbone("vgg11")


def test_running_statistics_of_the_backbone_move_by_a_hundredth_of_the_batch():
    torch.manual_seed(0)
    backbone = create_backbone(NAME).train()
    images = torch.randn(2, 3, 64, 64)
    values = backbone.conv1(images).detach().transpose(0, 1).flatten(1)
    backbone(images)
    torch.testing.assert_close(backbone.bn1.running_mean, 0.01 * values.mean(1))
    torch.testing.assert_close(backbone.bn1.running_var, 0.99 + 0.01 * values.var(1))

"""Backend `aten`: the fused algebra in torch operators, on any device. One module per operator."""

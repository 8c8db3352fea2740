# Named parts for the leaf configs; two bases may not both define `model`.
backbone = dict(
    type='ContainerLight',
    arch='light',
    drop_path_rate=0.1,
    # Batch norm is frozen entirely (appendix A.2): affine parameters and statistics.
    norm_cfg=dict(type='BN', requires_grad=False),
    norm_eval=True,
    init_cfg=dict(type='StrictPretrained', checkpoint='checkpoints/container_light_in1k.pth'))
channels = [64, 128, 320, 512]

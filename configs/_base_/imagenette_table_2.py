# What the rows of Container's Table 2 have in common (container_archs.py), with position tables and
# affinity matrices for 64 x 64 pixels instead of 224 x 224.
_base_ = './imagenette_classifier.py'

model = dict(
    backbone=dict(
        type='Container',
        arch=dict(
            embed_dims=(64, 128, 320, 512),
            depths=(3, 4, 8, 3),
            patch_sizes=(4, 2, 2, 2),
            mlp_ratios=(4, 4, 4, 4),
            pos_embed='table',
            image_size=64,
            num_heads=(None, None, None, None))))

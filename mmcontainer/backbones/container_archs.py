"""The Container family as a table: a model is a row, and rows differ in their affinities.

==================  ==================================================================
``embed_dims``      Channels of each stage.
``depths``          Blocks of each stage.
``mlp_ratios``      Hidden channels of the MLPs over ``embed_dims``.
``patch_sizes``     Down-sampling factor of each stage.
``num_heads``       Heads of the dynamic affinity, None where there is none.
``static``          Kind and arguments of the static affinity, None where there is none; see
                    :func:`mmcontainer.layers.build_static_affinity`.
``pos_embed``       'conv' (depth-wise 3x3 in every block, the default) or 'table' (one learned
                    map per stage).
``image_size``      Side of the square images for which position tables and static matrices are
                    learned (default 224); they are resized to others.
==================  ==================================================================

An entry that is a sequence has one value per stage. Source of sizes: the released code for 'light',
Tables 1 and 2 of arXiv 2106.01401 for the others (``docs/container_family.md``).
"""
CONTAINER_DEFAULTS = dict(pos_embed='conv', image_size=224)

_STAGES = dict(
    embed_dims=(64, 128, 320, 512),
    depths=(3, 4, 8, 3),
    patch_sizes=(4, 2, 2, 2))

_LIGHT = dict(
    **_STAGES,
    num_heads=(None, None, None, 16),
    static=dict(kind='depthwise', kernel_size=5))

# The rows of Table 2: learned position tables and kernels of size 3, alike but for the affinity.
_TABLE_2 = dict(**_STAGES, mlp_ratios=(4, 4, 4, 4), pos_embed='table')
_NO_HEADS = (None, None, None, None)
_HEADS = (2, 4, 10, 16)  # of 32 channels

CONTAINER_ARCHS = {
    # The released code and checkpoint (allenai/container).
    'light': dict(**_LIGHT, mlp_ratios=(8, 8, 4, 4)),
    # The size of the paper's Tables 1 and 4.
    'light-paper': dict(**_LIGHT, mlp_ratios=(4, 4, 4, 4)),
    # Container: both affinities in every stage.
    'base': dict(
        **_TABLE_2, num_heads=_HEADS, static=dict(kind='depthwise', kernel_size=3)),
    # Dynamic affinity alone: a DeiT-S in four stages.
    'h-deit-s': dict(**_TABLE_2, num_heads=_HEADS, static=None),
    # Static affinity alone, as a convolution: ordinary, grouped, depth-wise, one kernel per head.
    'conv-3': dict(
        **_TABLE_2, num_heads=_NO_HEADS, static=dict(kind='conv', kernel_size=3)),
    'group-conv-3': dict(
        **_TABLE_2, num_heads=_NO_HEADS, static=dict(kind='conv', kernel_size=3, groups=8)),
    'dw-3': dict(
        **_TABLE_2, num_heads=_NO_HEADS, static=dict(kind='depthwise', kernel_size=3)),
    'mh-dw-3': dict(
        **_TABLE_2,
        num_heads=_NO_HEADS,
        static=dict(kind='depthwise', kernel_size=3, num_heads=_HEADS)),
    # Static affinity alone, as a learned matrix: MLP-Mixer's, of low rank, and one per head.
    'mlp': dict(**_TABLE_2, num_heads=_NO_HEADS, static=dict(kind='dense')),
    'mlp-lr': dict(
        **_TABLE_2,
        num_heads=_NO_HEADS,
        static=dict(kind='low-rank', rank_ratio=(1 / 4, 1 / 2, 1., 1.))),
    'mh-mlp-lr': dict(
        **_TABLE_2,
        num_heads=_NO_HEADS,
        static=dict(
            kind='low-rank', rank_ratio=(1 / 8, 1 / 4, 1 / 2, 1.), num_heads=_HEADS)),
}

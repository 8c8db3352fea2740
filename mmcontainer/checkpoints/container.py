"""Names in the official Container checkpoints (allenai/container, models.py)."""
from .key_table import KeyTable

_ROWS = {'norm.*': 'norm.*', 'head.*': 'head.*'}
for _stage in range(4):
    _official, _ours = f'blocks{_stage + 1}.#', f'stages.{_stage}.blocks.#'
    # Blocks of the last stage hold query, key and value in conv1 and their depth-wise convolution
    # is called conv; in the other stages it is called attn.
    _static = 'conv' if _stage == 3 else 'attn'
    _ROWS.update({
        f'patch_embed{_stage + 1}.*': f'stages.{_stage}.patch_embed.*',
        f'{_official}.pos_embed.*': f'{_ours}.pos_embed.*',
        f'{_official}.norm1.*': f'{_ours}.norm1.*',
        f'{_official}.conv1.*': f'{_ours}.aggregation.in_proj.*',
        f'{_official}.{_static}.*': f'{_ours}.aggregation.static.*',
        f'{_official}.conv2.*': f'{_ours}.aggregation.out_proj.*',
        f'{_official}.norm2.*': f'{_ours}.norm2.*',
        f'{_official}.mlp.*': f'{_ours}.mlp.*',
    })
_ROWS['blocks4.#.sa_weight'] = 'stages.3.blocks.#.aggregation.mix_logit'

CONTAINER = KeyTable('container', _ROWS)

"""Names in the official CoTNet classification checkpoints (JDAI-CV/CoTNet), which are ours too."""
from .key_table import KeyTable

# A CoT or CoXt layer, and the gated convolution of SE-CoTNetD.
_SPATIAL = ('key_embed.#.*', 'embed.#.*', 'conv1x1.#.*', 'bn.*', 'se.#.*',
            'conv.weight', 'bn0.*', 'fc1.*', 'bn1.*', 'fc2.*')
_BLOCK = ('conv1.weight', 'bn1.*', 'conv3.weight', 'bn3.*', 'downsample.#.*',
          *(f'conv2.{name}' for name in _SPATIAL))
# conv1.#: the three convolutions (and two norms) of SE-CoTNetD's stem.
_NAMES = ('conv1.weight', 'conv1.#.*', 'bn1.*', *(f'layer#.#.{name}' for name in _BLOCK), 'fc.*')

COTNET = KeyTable('cotnet', {name: name for name in _NAMES})
